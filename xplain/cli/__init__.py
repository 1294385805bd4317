"""The command line: one file a command; each parses, builds a config, calls one pipeline function and prints."""

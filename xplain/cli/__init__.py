"""Command-line interface, with one module per command.

Each command parses its options, calls one pipeline function and prints the result.
"""

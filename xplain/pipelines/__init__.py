"""The flow of each command, and the library functions behind it."""

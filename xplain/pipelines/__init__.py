"""Implementations of the commands and of the corresponding library functions."""

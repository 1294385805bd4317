"""Slow and literal versions of the methods, written from the papers, to compare with."""

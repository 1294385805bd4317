"""Slow literal versions of the methods and metrics, written from the papers, for comparison."""

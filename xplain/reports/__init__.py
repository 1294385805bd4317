"""Turn results into pictures, pages and tables."""

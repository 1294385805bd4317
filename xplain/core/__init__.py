"""Definitions that all other folders use: types, errors, registry, configuration, files."""

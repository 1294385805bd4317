"""Definitions that every other package uses: types, errors, registry, configuration, files."""

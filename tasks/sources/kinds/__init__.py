"""The kinds of data sources: one module each, which registers itself in tasks/sources/registry.py."""

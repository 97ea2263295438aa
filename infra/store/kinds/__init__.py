"""The kinds of store, one module each, found by name: `infra/store/open.py`."""

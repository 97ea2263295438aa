"""The Python API: what `import hemaflow` offers."""

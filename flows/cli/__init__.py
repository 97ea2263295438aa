"""The command `hemaflow`."""

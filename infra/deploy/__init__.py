"""Servers on this machine, and the files that deploy hemaflow elsewhere."""

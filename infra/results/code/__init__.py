"""The code of this package as syntax trees: what a module defines, what it names, what it reaches."""

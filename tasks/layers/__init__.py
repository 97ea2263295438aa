"""Augmentation layers, offline and online."""

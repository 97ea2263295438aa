"""Comparing models and data: verdict, drift, label errors."""

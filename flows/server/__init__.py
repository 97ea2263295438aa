"""Prefect servers and workers: supervision, slots, task runners."""

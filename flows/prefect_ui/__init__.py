"""What a run shows in the Prefect UI: artifacts and pages."""

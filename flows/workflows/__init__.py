"""Work of several runs: a comparison, a retraining, a search for label errors; with Prefect or without."""

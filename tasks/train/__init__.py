"""The train stage: transfer, fine-tuning, ensembles."""

"""Results of stages: manifests, drafts and the fingerprints their keys are made of."""

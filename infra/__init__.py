"""What the work stands on: errors, settings, the object store, manifests and fingerprints."""

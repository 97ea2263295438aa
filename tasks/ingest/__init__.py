"""The ingest stage: cleaning, splitting, index."""

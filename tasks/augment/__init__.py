"""The augment stage: training shards."""

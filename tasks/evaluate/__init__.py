"""The evaluate stage: metrics, robustness, test-time augmentation."""

"""The evaluate stage: metrics, calibration and the choice of views, from kept probabilities."""

"""Using a trained model: views, temperature, predictions."""

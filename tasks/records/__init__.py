"""Records of images and predictions on their way between stages."""

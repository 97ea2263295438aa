"""The predict stage: what the network says of the val and test images, clean and spoiled."""

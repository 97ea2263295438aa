"""Where images come from: folders, zips, npz files, S3, BloodMNIST, drawn cells."""

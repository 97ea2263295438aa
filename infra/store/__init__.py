"""The object store: local folders and S3."""

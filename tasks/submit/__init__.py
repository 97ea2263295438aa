"""The submit stage: the submission zip, proven to run."""

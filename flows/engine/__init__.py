"""Whether a stage must run, and the worker process that runs it."""

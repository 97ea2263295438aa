"""The work: one module per stage and the pieces they are made of. No Prefect, no boto3."""

"""Journals to MLflow, and runs back from it. `store` is the one file that knows MLflow."""

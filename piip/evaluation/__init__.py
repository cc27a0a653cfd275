"""A model scored on a split, and a run rebuilt from MLflow."""

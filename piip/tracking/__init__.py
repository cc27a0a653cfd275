"""Journals to MLflow, and runs back from it. MLflow is known in this folder and nowhere else."""

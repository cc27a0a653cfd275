"""Trains and scores a model on batches. Knows neither Ray nor MLflow."""

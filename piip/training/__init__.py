"""From batches and a model to a trained, scored one. Knows neither Ray nor MLflow."""

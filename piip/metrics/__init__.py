"""Predictions to named numbers; states of several workers merge."""

"""Numbers of transforms that are read without PyTorch."""

MIN_SIDE = 1.0
"""Pixels; a box narrower than this, in the file or after resizing, is left out of training (mmdet's limit)."""

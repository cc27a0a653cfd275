"""Experiments with Parameter-Inverted Image Pyramid networks: which branches, at which image sizes, for your FLOPs."""

__version__ = "0.1.0"

"""DINO with four scales, as in mmdetection: `head.DINO` is the whole, read from there."""

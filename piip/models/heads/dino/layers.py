"""Small networks that the encoder and the decoder share, with the official code's first weights."""

import math

from torch import nn

from piip.spec import DINOSpec

PRIOR = 0.01
"""What every class's score is before anything is learned: focal loss then begins with few and small errors."""


def mlp(dim: int, hidden: int) -> nn.Sequential:
    """Two linear layers with a ReLU between them."""
    return nn.Sequential(xavier(nn.Linear(dim, hidden)), nn.ReLU(inplace=True), xavier(nn.Linear(hidden, dim)))


def xavier(layer: nn.Linear) -> nn.Linear:
    """The layer, its weights drawn by Xavier's rule."""
    nn.init.xavier_uniform_(layer.weight)
    return layer


def class_logits(spec: DINOSpec) -> nn.Linear:
    """Features to a logit for each class; there is no background class."""
    layer = nn.Linear(spec.embed_dim, spec.num_classes)
    nn.init.constant_(layer.bias, -math.log((1 - PRIOR) / PRIOR))
    return layer


def box_mlp(dim: int) -> nn.Sequential:
    """Features to a change of a box before its sigmoid: centre x, y, width, height. None before anything is learned."""
    last = nn.Linear(dim, 4)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), last)

"""Repeat-factor sampling (LVIS, Gupta et al. 2019, appendix B): images of rare classes come several times an epoch."""

import math
from collections import Counter
from collections.abc import Collection, Sequence


def repeated(labels: Sequence[Collection[int]], threshold: float) -> list[int]:
    """Indices of an epoch's images, each as often as its rarest class asks for: max(1, sqrt(threshold / share)), rounded up.

    mmdetection rounds up, as here, so that epochs are equally long; Detectron2 rounds by chance.

    Args:
        labels: The classes in each image; none: it comes once.
        threshold: Share of images from which on a class needs no repeating.
    """
    counts = Counter(label for found in labels for label in set(found))
    factors = {label: max(1.0, math.sqrt(threshold * len(labels) / count)) for label, count in counts.items()}
    times = [math.ceil(max((factors[label] for label in found), default=1.0)) for found in labels]
    return [index for index, count in enumerate(times) for _ in range(count)]

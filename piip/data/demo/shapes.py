"""The twelve classes of the demo data: outlines in a unit square, y down. A shape is its outer ring, then its holes."""

import math

import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.float64]
"""(K, 2) corners x, y."""
Shape = tuple[Ring, ...]


def _ring(corners: list[tuple[float, float]]) -> Ring:
    return np.array(corners, dtype=np.float64)


def _arc(radius: float, start: float, stop: float, centre: tuple[float, float] = (0.0, 0.0), points: int = 64) -> Ring:
    """Points on a circle from angle `start` to `stop`, in degrees, clockwise as seen (y down)."""
    angles = np.radians(np.linspace(start, stop, points, endpoint=abs(stop - start) < 360))
    return np.stack([centre[0] + radius * np.cos(angles), centre[1] + radius * np.sin(angles)], axis=1)


def _star() -> Ring:
    radii = [1.0, 0.42] * 5
    return _ring([(r * math.sin(math.pi * k / 5), -r * math.cos(math.pi * k / 5)) for k, r in enumerate(radii)])


def _heart() -> Ring:
    # The usual curve x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t, scaled to the unit square.
    t = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([np.sin(t) ** 3, -(y + 2.5) / 15], axis=1)


def _crescent() -> Ring:
    # A unit disc less a disc of radius 0.8 around (0.5, 0); the two circles meet at x = (1 + 0.25 - 0.64) / (2 * 0.5).
    meet = math.degrees(math.acos((1 + 0.5**2 - 0.8**2) / (2 * 0.5)))
    inner = math.degrees(math.atan2(math.sin(math.radians(meet)), math.cos(math.radians(meet)) - 0.5))
    return np.concatenate([_arc(1.0, meet, 360 - meet), _arc(0.8, 360 - inner, inner, centre=(0.5, 0.0))[1:-1]])


SHAPES: dict[str, Shape] = {
    "circle": (_arc(1.0, 0, 360),),
    "square": (_ring([(-1, -1), (1, -1), (1, 1), (-1, 1)]),),
    "triangle": (_ring([(0, -1), (1, 0.85), (-1, 0.85)]),),
    "star": (_star(),),
    "cross": (
        _ring([
            (-0.33, -1), (0.33, -1), (0.33, -0.33), (1, -0.33), (1, 0.33), (0.33, 0.33),
            (0.33, 1), (-0.33, 1), (-0.33, 0.33), (-1, 0.33), (-1, -0.33), (-0.33, -0.33),
        ]),
    ),
    "ring": (_arc(1.0, 0, 360), _arc(0.55, 0, 360)),
    "arrow": (_ring([(-1, -0.28), (0.1, -0.28), (0.1, -0.8), (1, 0), (0.1, 0.8), (0.1, 0.28), (-1, 0.28)]),),
    "heart": (_heart(),),
    "crescent": (_crescent(),),
    "hexagon": (_arc(1.0, 0, 360, points=6),),
    "house": (
        _ring([
            (0, -1), (0.45, -0.5), (0.45, -0.85), (0.68, -0.85), (0.68, -0.25), (1, 0.1), (0.72, 0.1),
            (0.72, 1), (0.22, 1), (0.22, 0.4), (-0.22, 0.4), (-0.22, 1), (-0.72, 1), (-0.72, 0.1), (-1, 0.1),
        ]),
    ),
    "bolt": (_ring([(0.25, -1), (-0.65, 0.15), (-0.1, 0.15), (-0.35, 1), (0.65, -0.25), (0.08, -0.25)]),),
}  # fmt: skip


def placed(shape: Shape, *, centre: tuple[float, float], size: float, degrees: float, aspect: float) -> Shape:
    """The shape stretched, turned, its longer side `size` pixels, the middle of its box on `centre`."""
    turn = math.radians(degrees)
    rotation = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    stretch = np.array([math.sqrt(aspect), 1 / math.sqrt(aspect)])
    rings = [ring * stretch @ rotation for ring in shape]
    low, high = rings[0].min(axis=0), rings[0].max(axis=0)
    scale = size / (high - low).max()
    return tuple((ring - (low + high) / 2) * scale + np.array(centre) for ring in rings)

"""Which trials are worth their cost."""

from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points no other dominates, cheapest first.

    A point is dominated where another has no more cost and no less gain, and is strictly better in one of the two.
    Equal points stand or fall together.

    Args:
        points: (cost, gain) pairs; cost is to be low, gain high.
    """
    best, front = float("-inf"), []
    # ascending cost, and at equal cost the highest gain first: a point is on the front if it beats all before
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        twin = bool(front) and points[front[-1]] == points[i]
        if points[i][1] > best or twin:
            front.append(i)
            best = points[i][1]
    return front


def hypervolume(points: Sequence[tuple[float, float]], reference: tuple[float, float]) -> float:
    """Area between the front and `reference` = (highest cost, lowest gain): grows as the front gets better.

    Points at or beyond the reference count nothing.
    """
    inside = [p for p in points if p[0] < reference[0] and p[1] > reference[1]]
    corners = [inside[i] for i in pareto_front(inside)]
    ends = [cost for cost, _ in corners[1:]] + [reference[0]]
    return sum((end - cost) * (gain - reference[1]) for (cost, gain), end in zip(corners, ends, strict=True))

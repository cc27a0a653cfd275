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

import random

from piip.reports.pareto import pareto_front


def test_front_is_what_nothing_dominates_cheapest_first():
    #          0         1         2         3         4
    points = [(3, 0.5), (1, 0.2), (2, 0.4), (2.5, 0.3), (4, 0.5)]

    assert pareto_front(points) == [1, 2, 0]


def test_front_agrees_with_the_definition_on_random_points():
    dice = random.Random(0)
    for _ in range(200):
        points = [(dice.randint(0, 6), dice.randint(0, 6)) for _ in range(dice.randint(0, 12))]

        def dominated(p, points=points):
            return any(q[0] <= p[0] and q[1] >= p[1] and q != p for q in points)

        assert sorted(pareto_front(points)) == [i for i, p in enumerate(points) if not dominated(p)]

"""Contrastive denoising against a computation object by object, by the paper's words (arXiv 2203.03605, section 3.3) and formulas."""

import math

import pytest
import torch
from dino_golden import SIZES, SPEC, features, golden_head, targets

from piip.models.heads.dino.denoising import noise
from piip.models.heads.dino.objects import Objects

NOISY = SPEC.model_copy(update={"denoising_queries": 10})
COUNTS, MOST, GROUPS = (2, 3), 3, 3
"""Objects of the golden's two images; three groups of up to three good ones are within ten."""


@pytest.fixture
def objects():
    return Objects.of(targets(torch.float64), SIZES)


@pytest.fixture
def noised(objects):
    torch.manual_seed(5)
    return noise(objects, NOISY)


def place(group, bad, number):
    """Where an object of an image stands among the queries."""
    return (2 * group + bad) * MOST + number


def each():
    return [
        (image, group, number)
        for image, count in enumerate(COUNTS)
        for group in range(GROUPS)
        for number in range(count)
    ]


def normalised(image, number):
    x0, y0, x1, y1 = targets(torch.float64)[image]["boxes"][number].tolist()
    height, width = SIZES[image]
    return x0 / width, y0 / height, x1 / width, y1 / height


def corners(box):
    x, y, w, h = box.tolist()
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def test_every_object_is_in_every_group_once_well_and_once_badly(noised):
    assert noised.groups == GROUPS
    assert noised.labels.shape == (2, 2 * GROUPS * MOST)
    taken = {image: set() for image in range(2)}
    for image, group, number in each():
        for bad in (0, 1):
            spot = place(group, bad, number)
            taken[image].add(spot)
            assert noised.present[image, spot]
            assert noised.wanted[image, spot] == (-1 if bad else number)
    for image in range(2):
        free = [spot for spot in range(2 * GROUPS * MOST) if spot not in taken[image]]
        assert not noised.present[image, free].any()
        assert (noised.wanted[image, free] == -1).all()
        assert (noised.boxes[image, free] == 0.5).all()


def test_corners_move_by_up_to_half_a_side_and_bad_ones_by_half_to_a_whole():
    truth = [[0.4, 0.4, 0.5, 0.6], [0.5, 0.3, 0.6, 0.5]]
    target = {"boxes": 100 * torch.tensor(truth, dtype=torch.float64), "labels": torch.tensor([1, 2])}
    torch.manual_seed(0)

    noised = noise(Objects.of([target], [(100, 100)]), SPEC.model_copy(update={"denoising_queries": 400}))

    moves = {0: [], 1: []}
    for group in range(200):
        for number, box in enumerate(truth):
            half = [(box[2] - box[0]) / 2, (box[3] - box[1]) / 2] * 2
            for bad in (0, 1):
                now = corners(noised.boxes[0, (2 * group + bad) * 2 + number])
                if (
                    min(now[2] - now[0], now[3] - now[1]) > 0.002
                ):  # else it was turned inside out, and has the least side
                    moves[bad] += [abs(n - t) / h for n, t, h in zip(now, box, half, strict=True)]
    for bad, found in moves.items():
        assert len(found) > 500
        assert bad - 1e-9 <= min(found) < bad + 0.05
        assert bad + 0.9 < max(found) <= bad + 1 + 1e-9


def test_a_fourth_of_the_labels_is_drawn_anew(objects):
    torch.manual_seed(0)
    truth = [(target["labels"] - 1).tolist() for target in targets()]
    changed, total = 0, 0
    for _ in range(200):
        noised = noise(objects, NOISY)
        for image, group, number in each():
            for bad in (0, 1):
                changed += noised.labels[image, place(group, bad, number)].item() != truth[image][number]
                total += 1

    # half of .5, and one in five of those drawn is the old one: .2; 6000 draws, standard deviation .005
    assert changed / total == pytest.approx(0.25 * 4 / 5, abs=0.025)


def test_nobody_looks_at_another_group_and_queries_at_no_noised_object(noised):
    first = noised.labels.shape[1]
    visible = noised.visible(first + 4)

    for asking in range(first + 4):
        for asked in range(first + 4):
            same_group = asking < first and asking // (2 * MOST) == asked // (2 * MOST)
            assert visible[asking, asked] == (asked >= first or same_group)


def test_queries_decide_as_if_no_object_had_been_noised():
    losses = []
    for count in (1, 30):
        head = golden_head(torch.float64)
        head.spec = SPEC.model_copy(update={"denoising_queries": count})
        losses.append(head.train()(features(torch.float64), SIZES, targets(torch.float64)))

    for name in losses[0]:
        if "denoising" not in name:
            torch.testing.assert_close(losses[0][name], losses[1][name], atol=1e-9, rtol=0)


def focal(logit, positive):
    p = 1 / (1 + math.exp(-logit))
    return -0.25 * (1 - p) ** 2 * math.log(p) if positive else -0.75 * p**2 * math.log(1 - p)


def giou(a, b):
    area = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    inter = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = sum(area) - inter
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return inter / union - (hull - union) / hull


def test_losses_of_noised_objects_are_those_of_the_formulas(objects):
    head = golden_head(torch.float64).train()
    head.spec = NOISY
    decoded = []
    head.decoder.register_forward_hook(lambda _, given, out: decoded.append((given[3], out)))

    losses = head(features(torch.float64), SIZES, targets(torch.float64))

    noised, (logits, boxes) = decoded[0]
    wanted = {
        (image, place(group, 0, number)): (targets()[image]["labels"][number].item() - 1, number)
        for image, group, number in each()
    }
    sums = {"class": 0.0, "box": 0.0, "giou": 0.0}
    for layer in range(SPEC.decoder_layers):
        for image in range(2):
            for spot in range(noised.labels.shape[1]):
                label, number = wanted.get((image, spot), (None, None))
                for kind in range(SPEC.num_classes):
                    sums["class"] += focal(logits[layer, image, spot, kind].item(), kind == label)
                if number is not None:
                    now, truth = corners(boxes[layer, image, spot]), normalised(image, number)
                    x0, y0, x1, y1 = truth
                    middle = ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)
                    box = boxes[layer, image, spot].tolist()
                    sums["box"] += sum(abs(one - other) for one, other in zip(box, middle, strict=True))
                    sums["giou"] += 1 - giou(now, truth)
    positives = GROUPS * sum(COUNTS)
    for name, weight in {"class": 1, "box": 5, "giou": 2}.items():
        assert losses[f"loss_denoising_{name}"].item() == pytest.approx(weight * sums[name] / positives, rel=1e-6)


def test_a_full_image_still_makes_one_group():
    many = [{"boxes": torch.tensor([[1.0, 1, 5, 5]]).repeat(30, 1), "labels": torch.ones(30, dtype=torch.long)}]

    noised = noise(Objects.of(many, [(10, 10)]), NOISY)

    assert (noised.groups, noised.labels.shape) == (1, (1, 60))


def test_without_objects_nothing_is_noised():
    none = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}]

    assert noise(Objects.of(none, [(10, 10)]), NOISY) is None

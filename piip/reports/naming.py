"""What trials are called: the family that shares a colour, and the shortest label that is a trial's own."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from piip.tracking.store import RunInfo

Params = Mapping[str, str]


HEAD = "model.head.kind"
_NAMES = {"rcnn": "R-CNN", "retinanet": "RetinaNet", "upernet": "UperNet", "dino": "DINO"}
"""Parts of heads' kinds that are not written as they sound."""


def branches_of(params: Params) -> tuple[list[str], list[int]]:
    """Networks and their image sizes, high to low resolution, from flat params."""
    archs, resolutions = [], []
    for i in range(len(params)):
        prefix = f"model.backbone.branches.{i}."
        if prefix + "arch" not in params:
            break
        archs.append(params[prefix + "arch"])
        resolutions.append(int(params[prefix + "resolution"]))
    if not archs and "model.backbone.arch" in params:
        return [params["model.backbone.arch"]], [int(params["model.backbone.resolution"])]
    return archs, resolutions


def family_of(run: RunInfo) -> tuple[str, str]:
    """`("PIIP-TSB", "piip")`, `("ViT-B", "vit")`, `("ResNet-18", "cnn")`.

    Any other backbone is of the family that its spec's title says (a tag of its runs), of the kind `other`; a run without a spec is a
    family of its own.
    """
    archs, _ = branches_of(run.params)
    letters = run.params.get("model.backbone.label", "").upper()
    match run.params.get("model.backbone.kind"):
        case "piip" if len(archs) > 1:
            return f"PIIP-{letters or len(archs)}", "piip"
        case "piip":
            return f"ViT-{letters or archs[0].split('.')[0]}", "vit"
        case "cnn":
            arch = archs[0].split(".")[0]
            return re.sub(r"^resne(x?)t(\d+)", r"ResNe\1t-\2", arch), "cnn"
        case _:
            return run.tags.get("piip.title") or run.name, "other"


def unique_labels(plain: Sequence[str], params: Sequence[Params]) -> list[str]:
    """Labels of trials; where several share one, what tells them apart is added.

    Args:
        plain: Family and resolutions of each trial.
        params: Its flat params.
    """
    alike: dict[str, list[int]] = defaultdict(list)
    for i, label in enumerate(plain):
        alike[label].append(i)
    labels = list(plain)
    for label, members in alike.items():
        if len(members) == 1:
            continue
        suffixes, distinct = _suffixes(
            [_differences(params[i], [params[j] for j in members]) for i in members],
        )
        for order, (i, suffix) in enumerate(zip(members, suffixes, strict=True), start=1):
            labels[i] = f"{label} {suffix}" if distinct else f"{label} {suffix} ({order})".replace("  ", " ")
    return labels


def _suffixes(differences: Sequence[Sequence[str]]) -> tuple[list[str], bool]:
    """Look-alikes' words in short, and whether that tells them apart: the first two words, more where two do not."""
    for most in range(2, max(2, *map(len, differences)) + 1):
        suffixes = [", ".join(words[:most]) for words in differences]
        if len(set(suffixes)) == len(suffixes):
            return suffixes, True
    return [", ".join(words[:2]) for words in differences], False


def _differences(mine: Params, others: Sequence[Params]) -> list[str]:
    """What a trial has that its look-alikes have otherwise, e.g. `Mask R-CNN`, `scratch` or `lr=0.0003`."""
    # fields of a head are compared with those of its own kind
    same_head = [other for other in others if other.get(HEAD) == mine.get(HEAD)]
    words = [_head_words(mine[HEAD])] if HEAD in mine and len(same_head) < len(others) else []
    for key, value in mine.items():
        compared = same_head if key.startswith("model.head.") else others
        if key == "name" or key.startswith("paper") or all(other.get(key) == value for other in compared):
            continue
        leaf = key.rsplit(".", 1)[-1]
        word = f"{leaf}={value}"
        if leaf == "pretrained":
            word = "pretrained" if value == "True" else "scratch"
        if word not in words:
            words.append(word)
    return words


def _head_words(kind: str) -> str:
    """`cascade_mask_rcnn` as papers write it."""
    return " ".join(_NAMES.get(word, word.capitalize()) for word in kind.split("_"))

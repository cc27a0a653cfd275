"""Specs that earlier versions wrote, in today's form: one function a change, oldest first."""

from typing import Any

Tree = dict[str, Any]


def upgraded(tree: Tree) -> Tree:
    """A parsed `spec.json` of any version as today's; a new tree where something changed."""
    for change in (_pixels_to_branches, _wishes_to_heads, _kernel_to_speed, _data_by_kind):
        tree = change(tree)
    return tree


def _pixels_to_branches(tree: Tree) -> Tree:
    """Mean and std belonged to the data set."""
    data = tree.get("data", {})
    pixels = {name: data[name] for name in ("mean", "std") if name in data}
    if not pixels:
        return tree
    backbone = tree["model"]["backbone"]
    if "branches" in backbone:
        backbone = backbone | {"branches": [branch | pixels for branch in backbone["branches"]]}
    else:
        backbone = backbone | pixels
    data = {name: value for name, value in data.items() if name not in pixels}
    return tree | {"model": tree["model"] | {"backbone": backbone}, "data": data}


def _wishes_to_heads(tree: Tree) -> Tree:
    """The backbone said which maps there are, or none."""
    backbone = {name: value for name, value in tree["model"]["backbone"].items() if name != "out_strides"}
    if backbone.get("fpn") == "none":
        backbone["fpn"] = "simple"
    return tree | {"model": tree["model"] | {"backbone": backbone}}


def _kernel_to_speed(tree: Tree) -> Tree:
    """The kernel belonged to the interaction."""
    backbone = tree["model"]["backbone"]
    if "kernel" not in backbone.get("interaction", {}):
        return tree
    interaction = dict(backbone["interaction"])
    speed = tree.get("speed", {}) | {"kernel": interaction.pop("kernel")}
    return tree | {"model": tree["model"] | {"backbone": backbone | {"interaction": interaction}}, "speed": speed}


def _data_by_kind(tree: Tree) -> Tree:
    """ADE20K and ImageNet were names of COCO data; nothing could be trained on them."""
    data = tree.get("data", {})
    name = data.get("name")
    if data.get("kind", "coco") != "coco" or name not in ("ade20k", "imagenet"):
        return tree
    return tree | {"data": {"kind": name, "name": name}}

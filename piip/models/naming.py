"""Our parameter names <-> the official code's, for goldens, released weights and manifests.

The official code numbers branches from the largest network (branch1 sees the smallest image); our branches[0] is its last one.
Shapes agree but for the merge's scalars: (), and (1,) here, because DeepSpeed cannot broadcast tensors without a dimension.
"""

import re

# (ours, official) below one block, injector, merge or pyramid level
_BLOCK = [("ls1.gamma", "gamma_1"), ("ls2.gamma", "gamma_2")]
# inside a unit "branch1" is the larger network of the pair: our low-resolution one
_UNIT = [
    ("proj_to_high", "branch1to2_proj"),
    ("proj_to_low", "branch2to1_proj"),
    ("to_high", "branch1to2_injector"),
    ("to_low", "branch2to1_injector"),
    ("ffn.dwconv", "ffn.dwconv.dwconv"),
]


def to_official(name: str, num_branches: int) -> str:
    """The official name of a parameter of our PIIP, e.g. `branches.0.blocks.3.ls1.gamma` -> `branch3.blocks.3.gamma_1`.

    Raises:
        ValueError: A PIIP of so many branches has no such parameter.
    """
    match name.split(".", 3):
        case ["branches", i, *rest]:
            return f"branch{num_branches - int(i)}.{_translate('.'.join(rest), _BLOCK)}"
        case ["interactions", step, pair, rest]:
            first = num_branches - 1 - int(pair)
            return f"interactions.{step}.interaction_units_{first}{first + 1}.{_translate(rest, _UNIT)}"
        case ["merge", "convs", i, rest]:
            return f"merge_branch{num_branches - int(i)}.{rest}"
        case ["merge", "weights", i]:
            return f"w{num_branches - int(i)}"
        case ["pyramid", level, *rest]:
            return f"fpn{int(level) + 1}.{'.'.join(rest)}"
    raise ValueError(f"{name!r} is no parameter of a PIIP with {num_branches} branches")


def from_official(name: str, num_branches: int) -> str:
    """The inverse of `to_official`.

    Raises:
        ValueError: Not a name of the official PIIP with so many branches.
    """
    if found := re.fullmatch(r"w(\d+)", name):
        return f"merge.weights.{num_branches - int(found[1])}"
    if found := re.fullmatch(r"merge_branch(\d+)\.(.+)", name):
        return f"merge.convs.{num_branches - int(found[1])}.{found[2]}"
    if found := re.fullmatch(r"branch(\d+)\.(.+)", name):
        return f"branches.{num_branches - int(found[1])}.{_translate(found[2], _swapped(_BLOCK))}"
    if found := re.fullmatch(r"interactions\.(\d+)\.interaction_units_(\d)\d\.(.+)", name):
        pair = num_branches - 1 - int(found[2])
        return f"interactions.{found[1]}.{pair}.{_translate(found[3], _swapped(_UNIT))}"
    if found := re.fullmatch(r"fpn(\d)\.(.+)", name):
        return f"pyramid.{int(found[1]) - 1}.{found[2]}"
    raise ValueError(f"{name!r} is no parameter of the official PIIP with {num_branches} branches")


def _translate(name: str, pairs: list[tuple[str, str]]) -> str:
    for old, new in pairs:
        name = re.sub(rf"(?<!\w){re.escape(old)}(?!\w)", new, name, count=1)
    return name


def _swapped(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(official, ours) for ours, official in pairs]

"""Branches put together: `piip("TSB", (1120, 896, 448))`, its variants and its name.

`window` follows the combination and not the branch: 14 for TSB, 28 for SBL and TSBL.
"""

from collections.abc import Mapping, Sequence

from piip.presets.families import DEIT
from piip.spec import BranchSpec, InteractionSpec, PIIPSpec


def piip(
    letters: Sequence[str],
    resolutions: Sequence[int],
    *,
    branches: Mapping[str, BranchSpec] = DEIT,
    window: int | tuple[int | None, ...] | None = None,
    interaction: InteractionSpec = InteractionSpec(),  # noqa: B008 (frozen)
    label: str | None = None,
) -> PIIPSpec:
    """`piip("TSB", (1120, 896, 448))`: the smallest model sees the largest image.

    Args:
        letters: Of `branches`; a sequence where letters are longer, as ("H", "6B").
        resolutions: One per letter, falling.
        branches: The family.
        window: Attention window of every block of every branch, or a pattern that is repeated; None leaves the family's.
        interaction: How neighbours exchange features.
        label: The middle of the row's name; None: the letters.
    """
    if len(letters) != len(resolutions):
        raise ValueError(
            f"PIIP-{''.join(letters)} has {len(letters)} branches but {len(resolutions)} resolutions: {tuple(resolutions)}"
        )
    unknown = sorted(set(letters) - set(branches))
    if unknown:
        raise ValueError(f"no branch {unknown} in this family; it has {sorted(branches)}")
    change: dict[str, object] = {} if window is None else {"window": window}
    chosen = tuple(
        branches[letter].override({"resolution": side, **change})
        for letter, side in zip(letters, resolutions, strict=True)
    )
    return PIIPSpec(label=label or "".join(letters).lower(), branches=chosen, interaction=interaction)


def each_branch(backbone: PIIPSpec, changes: Mapping[str, object]) -> PIIPSpec:
    """`backbone` with the same fields changed in all its branches."""
    return backbone.override(
        {f"branches.{i}.{name}": value for i in range(len(backbone.branches)) for name, value in changes.items()}
    )


def speedup(backbone: PIIPSpec) -> PIIPSpec:
    """The published "faster training" form: interactions without projections and norms, MLPs with tanh-GELU."""
    fast = each_branch(backbone, {"activation": "gelu_tanh"})
    changes = {"interaction.projection": False, "interaction.norms": False, "label": f"{backbone.label}_speedup"}
    return fast.override(changes)

"""Tensors of a file against the tensors of a network: what matched, was resized, is missing, was ignored, has no place."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from piip.weights.read import WeightsError

Blemish = Literal["missing", "unexplained", "resized"]
"""What a load can be asked to put up with."""
Adapt = Callable[[str, Tensor, torch.Size], tuple[Tensor, bool] | None]
_SHOWN = 3


@dataclass
class Report:
    """Every tensor of the network and of the file, once."""

    origin: str
    matched: list[str] = field(default_factory=list)
    """Our names."""
    resized: dict[str, str] = field(default_factory=dict)
    """Our name -> the two shapes."""
    missing: list[str] = field(default_factory=list)
    """Our names that the file has no tensor for."""
    anew: dict[str, str] = field(default_factory=dict)
    """Our name -> why it keeps its initial value although the file has none."""
    ignored: dict[str, str] = field(default_factory=dict)
    """The file's name -> why this network has no use for it."""
    unexplained: dict[str, str] = field(default_factory=dict)
    """The file's name -> what is wrong: no place for it, or another shape."""

    @property
    def summary(self) -> str:
        """One line."""
        parts = (
            f"{len(getattr(self, part))} {part}" for part in ("matched", "resized", "missing", "ignored", "unexplained")
        )
        return f"{self.origin}: {', '.join(parts)}"

    def lines(self) -> list[str]:
        """The summary, and every tensor that did not simply match."""
        detail = [f"  resized {name}: {shapes}" for name, shapes in self.resized.items()]
        detail += [f"  missing {name}" for name in self.missing]
        detail += [f"  initial {name}: {why}" for name, why in self.anew.items()]
        detail += [f"  ignored {name}: {why}" for name, why in self.ignored.items()]
        detail += [f"  unexplained {name}: {why}" for name, why in self.unexplained.items()]
        return [self.summary, *detail]

    def require(self, allow: Collection[Blemish] = ("resized",)) -> None:
        """Refuse what the caller did not ask for.

        Raises:
            WeightsError: Something is missing, unexplained or resized, and not allowed to be.
        """
        found = {
            "missing": self.missing,
            "unexplained": [f"{name} ({why})" for name, why in self.unexplained.items()],
            "resized": [f"{name} ({shapes})" for name, shapes in self.resized.items()],
        }
        for kind in get_args(Blemish):
            if found[kind] and kind not in allow:
                more = f" and {len(found[kind]) - _SHOWN} more" if len(found[kind]) > _SHOWN else ""
                raise WeightsError(
                    f"{self.summary}. {kind.capitalize()}: {', '.join(found[kind][:_SHOWN])}{more}. "
                    f"The file is of another network, or say that this is meant: allow {kind}"
                )


def fit(
    weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, origin: str, name_of: Callable[[str], str] = str,
    adapt: Adapt = lambda name, tensor, wanted: None, anew: Mapping[str, str] | None = None,
    why_not: Callable[[str], str | None] = lambda name: None,
) -> tuple[dict[str, Tensor], Report]:  # fmt: skip
    """The file's tensors under our names, in our shapes and types.

    Args:
        weights: The file's.
        wanted: The network's state dict; only shapes and types are read, so it may be on the meta device.
        origin: Of the weights, for the report.
        name_of: Our name -> the file's.
        adapt: (our name, the file's tensor, our shape) -> the tensor in that shape and whether its values changed, or None.
        anew: Our name -> why the file need not have it.
        why_not: The file's name -> why this network has no use for it, or None where that is not known.

    Raises:
        WeightsError: A tensor holds nan or inf.
    """
    report, fitted, left = Report(origin), {}, dict(weights)
    for name, target in wanted.items():
        theirs = name_of(name)
        if theirs not in weights:
            if anew and name in anew:
                report.anew[name] = anew[name]
            else:
                report.missing.append(name)
            continue
        source = weights[theirs]
        left.pop(theirs, None)
        adapted = (source, False) if source.shape == target.shape else adapt(name, source, target.shape)
        if adapted is None:
            report.missing.append(name)
            report.unexplained[theirs] = f"{tuple(source.shape)} in the file, {tuple(target.shape)} here"
            continue
        value, resized = adapted
        if resized:
            report.resized[name] = f"{tuple(source.shape)} to {tuple(target.shape)}"
        else:
            report.matched.append(name)
        if value.is_floating_point() and not value.is_meta and not value.isfinite().all():
            raise WeightsError(f"{origin}: {theirs} holds nan or inf. Get the file again, or an earlier checkpoint")
        fitted[name] = value.to(target.dtype)
    for theirs in left:
        why = why_not(theirs)
        (report.ignored if why else report.unexplained)[theirs] = why or "this network has no such tensor"
    return fitted, report

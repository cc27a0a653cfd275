"""InternImage's public pretraining: classifiers, whose bodies have the names that ours have."""

from collections.abc import Mapping

from torch import Tensor

from piip.weights.fit import Report, fit
from piip.weights.read import Weights

_CLASSIFIER = ("conv_head.", "dcnv3_head_x3.", "dcnv3_head_x4.", "clip_projector.", "fc_norm.", "head.")
"""How names begin of what a classifier has behind its body; the middle four of H and G."""
_BODY = "backbone."
"""In front of the body's names in a detector's file."""


def fit_pretraining(
    weights: Weights, wanted: Mapping[str, Tensor], *, own: Mapping[str, str] | None = None
) -> tuple[dict[str, Tensor], Report]:
    """A classifier's, or a detector's, tensors as the state dict of a body, and what became of each.

    Args:
        weights: As read.
        wanted: The body's state dict.
        own: Its tensors that no pretraining has -> why.

    Raises:
        WeightsError: They are of another network.
    """
    tensors = weights.tensors
    in_detector = any(name.startswith(_BODY) for name in tensors)
    given = {
        name.removeprefix(_BODY): value for name, value in tensors.items() if name.startswith(_BODY) or not in_detector
    }
    anew = dict(own or {})
    if not any(name.endswith((".gamma1", ".gamma2")) for name in given):
        # T is pretrained without a layer scale, its detectors have one
        anew |= {name: "the pretraining has no layer scale" for name in wanted if name.endswith((".gamma1", ".gamma2"))}
    depth = {name.split(".")[1] for name in wanted if name.startswith("levels.")}

    def why_not(name: str) -> str | None:
        words = name.split(".")
        if name.startswith(_CLASSIFIER):
            return "the classifier's"
        if name.startswith("patch_embed.") and not any(known.startswith("patch_embed.") for known in wanted):
            return "the first tower's stem, which is the second one's"
        if words[0] == "levels" and (
            words[1] not in depth or (words[2] == "downsample" and str(int(words[1]) + 1) not in depth)
        ):
            return "behind the coarsest map that the head reads"
        return None

    fitted, report = fit(given, wanted, origin=weights.origin, anew=anew, why_not=why_not)
    report.ignored |= {name: "the detector's" for name in tensors if in_detector and not name.startswith(_BODY)}
    report.require(())
    return fitted, report

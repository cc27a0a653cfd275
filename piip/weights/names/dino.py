"""mmdetection's names of a DINO's tensors."""

import re
from collections.abc import Mapping

from torch import Tensor

from piip.spec import DINOSpec

_TRANSFORMER = "bbox_head.transformer."
# ours, official: where a name begins
_PLACES = [
    (r"head\.neck\.convs\.", "neck.convs."),
    (r"head\.neck\.extra\.", "neck.extra_convs.0."),
    (r"head\.encoder\.level_embed$", f"{_TRANSFORMER}level_embeds"),
    (r"head\.encoder\.layers\.(\d+)\.attention\.", rf"{_TRANSFORMER}encoder.layers.\1.attentions.0."),
    (r"head\.decoder\.layers\.(\d+)\.attention\.", rf"{_TRANSFORMER}decoder.layers.\1.attentions.1."),
    (r"head\.decoder\.layers\.(\d+)\.among\.", rf"{_TRANSFORMER}decoder.layers.\1.attentions.0.attn."),
    (r"head\.(encoder|decoder)\.layers\.(\d+)\.mlp\.0\.", rf"{_TRANSFORMER}\1.layers.\2.ffns.0.layers.0.0."),
    (r"head\.(encoder|decoder)\.layers\.(\d+)\.mlp\.2\.", rf"{_TRANSFORMER}\1.layers.\2.ffns.0.layers.1."),
    *(
        (rf"head\.(encoder|decoder)\.layers\.(\d+)\.norm{k + 1}\.", rf"{_TRANSFORMER}\1.layers.\2.norms.{k}.")
        for k in range(3)
    ),
    (r"head\.selection\.linear\.", f"{_TRANSFORMER}enc_output."),
    (r"head\.selection\.norm\.", f"{_TRANSFORMER}enc_output_norm."),
    (r"head\.decoder\.queries$", f"{_TRANSFORMER}query_embed.weight"),
    (r"head\.decoder\.position\.", f"{_TRANSFORMER}decoder.ref_point_head."),
    (r"head\.decoder\.norm\.", f"{_TRANSFORMER}decoder.norm."),
    (r"head\.decoder\.labels\.", "bbox_head.label_embedding."),
    (r"head\.decoder\.classes\.", "bbox_head.cls_branches."),
    (r"head\.decoder\.boxes\.", "bbox_head.reg_branches."),
]
PER_CLASS = (
    "bbox_head.cls_branches.", "bbox_head.label_embedding.",
    "head.selection.classes.", "head.decoder.classes.", "head.decoder.labels.",
)  # fmt: skip
"""Tensors with a row per class, mmdetection's and ours."""


def official_name(name: str, spec: DINOSpec) -> str:
    """The name of a parameter of our head in a file that is `split`.

    Raises:
        ValueError: It is none.
    """
    # the proposals' layers come after the decoder's there
    for ours in ("classes", "boxes"):
        name = name.replace(f"head.selection.{ours}.", f"head.decoder.{ours}.{spec.decoder_layers}.")
    for ours, official in _PLACES:
        renamed, count = re.subn(f"^{ours}", official, name)
        if count:
            return renamed
    raise ValueError(f"{name!r} is no parameter of a DINO")


def split(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A file's tensors with the decoder's three projections, one matrix there, as our two layers: queries and keys, values."""
    changed = dict(tensors)
    for name in tensors:
        if found := re.fullmatch(
            rf"({_TRANSFORMER}decoder\.layers\.\d+\.attentions\.0\.attn\.)in_proj_(weight|bias)", name
        ):
            whole = changed.pop(name)
            parts = whole.split([len(whole) * 2 // 3, len(whole) // 3])
            changed |= {
                f"{found[1]}{layer}.{found[2]}": part for layer, part in zip(("query_key", "value"), parts, strict=True)
            }
    return changed

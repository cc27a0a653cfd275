"""mmsegmentation's names of an UperNet's tensors."""

import re

_UPERNET = [
    # pooling and convolution are one sequence there
    (r"head\.decode\.psp_modules\.(\d+)\.", r"decode_head.psp_modules.\1.1."),
    (r"head\.decode\.", "decode_head."),
    (r"head\.auxiliary\.", "auxiliary_head."),
]
PER_CLASS = (
    "decode_head.conv_seg.", "auxiliary_head.conv_seg.", "head.decode.conv_seg.", "head.auxiliary.conv_seg.",
)  # fmt: skip
"""Tensors with a row per class, mmsegmentation's and ours."""


def official_name(name: str) -> str:
    """The name of a tensor of our head, its running statistics included.

    Raises:
        ValueError: It is none.
    """
    for ours, official in _UPERNET:
        renamed, count = re.subn(f"^{ours}", official, name)
        if count:
            return renamed
    raise ValueError(f"{name!r} is no tensor of an UperNet")

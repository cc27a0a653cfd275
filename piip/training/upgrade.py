"""Checkpoints that earlier versions wrote, in today's form: one step a version, oldest first.

Version 1 (no `version` in its manifest): neck and head lay beside the backbone, a classifier's norms and linear layers in its branches.
Version 2: `backbone.*` and `head.*`.
"""

import re

VERSION = 2
"""Version of the manifests that are written now."""

# of a parameter, and of an optimizer's tensor (`name:field`)
_BESIDE = re.compile(r"^(neck|rpn|roi_heads)\.")
_MERGED = re.compile(r"^merged_head\.")
_OWN = re.compile(r"^backbone\.branches\.(\d+)\.(norm|head)\.")


def today(name: str, version: int) -> str:
    """What a tensor of a checkpoint of some version is called now."""
    for change in (_heads_own_their_parts,)[version - 1 :]:
        name = change(name)
    return name


def _heads_own_their_parts(name: str) -> str:
    """Version 1 to 2."""
    name = _BESIDE.sub(r"head.\1.", name)
    name = _MERGED.sub("head.merged.", name)
    return _OWN.sub(r"head.own.\1.\2.", name)

"""Detectron's configurations in our words, and the names that its own modules and files have for their tensors."""

import json
import lzma
from functools import cache
from pathlib import Path

from piip.spec import FasterRCNNSpec, FormSpec, KeypointRCNNSpec, MaskRCNNSpec, ModelSpec, ResNetSpec

R50, R101, R152 = (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)
C4, GN = {"form": FormSpec(maps="c4")}, {"form": FormSpec(norm="group", box_convs=4)}


def _next(depths, groups: int, width: int) -> ResNetSpec:
    return _body(depths, groups=groups, width_per_group=width, stride_in="3x3")


def _body(depths=R50, **form) -> ResNetSpec:
    return ResNetSpec(resolution=1333, depths=depths, freeze_at=2, **form)


def _mask(body: ResNetSpec, **changes) -> ModelSpec:
    return ModelSpec(backbone=body, head=MaskRCNNSpec(dialect="detectron", **changes))


FAMILIES = {
    "faster_R50_C4": ModelSpec(backbone=_body(), head=FasterRCNNSpec(dialect="detectron", **C4)),
    "mask_R50_C4": _mask(_body(), mask_convs=0, **C4),
    "mask_R101_C4": _mask(_body(R101), mask_convs=0, **C4),
    "faster_R50_FPN": ModelSpec(backbone=_body(), head=FasterRCNNSpec(dialect="detectron")),
    "mask_R50_FPN": _mask(_body()),
    "mask_R101_FPN": _mask(_body(R101)),
    "kps_R50_FPN": ModelSpec(backbone=_body(), head=KeypointRCNNSpec(dialect="detectron")),
    "mask_R50_FPN_GN": _mask(_body(norm="group", stride_in="3x3"), **GN),
    "mask_X101_32x8d": _mask(_next(R101, 32, 8)),
    "mask_X101_64x4d": _mask(_next(R101, 64, 4)),
    "mask_X152_32x8d": _mask(_next(R152, 32, 8)),
}


@cache
def manifest(family: str) -> dict:
    """`mapping`: module's name -> shape, blob or None; `orphans`: blobs nothing reads; `params_total`, `params_trainable`."""
    file = Path(__file__).parents[1] / "golden" / "detectron_manifests.json.xz"
    return json.loads(lzma.decompress(file.read_bytes()))[family]


def module_names(family: str) -> dict[str, str]:
    """Blob -> the name of the tensor in its module, which the goldens' values are seeded by."""
    return {blob: name for name, (_, blob) in manifest(family)["mapping"].items() if blob}

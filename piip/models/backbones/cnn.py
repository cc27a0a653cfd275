"""Convolutional backbones through timm: the peers PIIP is compared with."""

import timm
from timm.models import FeatureInfo
from torch import Tensor, nn

from piip.contracts import Maps, Wish
from piip.models.backbones.wishes import STRIDES, strides_of
from piip.models.branches.pretraining import hub_overlay
from piip.nearest import nearest
from piip.spec import CNNSpec
from piip.weights.read import WeightsError


class CNN(nn.Module):
    """Image -> maps of a timm network, at those of its strides 4, 8, 16, 32 that the head asks for.

    Normalisation layers stay as they are (BatchNorm for resnet18): trained from scratch with batches of 4 it learns, and statistics
    are per worker, as everywhere without SyncBN; nothing is frozen.
    """

    def __init__(self, spec: CNNSpec, wish: Wish = Maps(), *, pretrained: bool = True) -> None:  # noqa: B008 (frozen)
        super().__init__()
        self.strides = strides_of(wish, STRIDES, what=f"{spec.arch!r}, a convolutional network,")
        name = spec.arch.split(".")[0]
        if not timm.is_model(name):
            raise ValueError(f"timm {timm.__version__} has no network {name!r}. {nearest(name, timm.list_models())}")
        pretrained = pretrained and spec.pretrained
        try:
            overlay = hub_overlay(spec.arch, otherwise="set model.backbone.pretrained=false") if pretrained else None
            self.body = timm.create_model(
                spec.arch,
                pretrained=pretrained,
                features_only=True,
                out_indices=tuple(STRIDES.index(stride) - len(STRIDES) for stride in self.strides),
                pretrained_cfg_overlay=overlay,
            )
        except (OSError, RuntimeError) as error:
            raise WeightsError(
                f"cannot build {spec.arch!r} (pretrained={pretrained}): {type(error).__name__}: {error}. "
                "Weights: give this machine a network or a filled HF_HOME cache, "
                "or set model.backbone.pretrained=false"
            ) from error
        info: FeatureInfo = self.body.feature_info  # type: ignore[assignment]
        if info.reduction() != list(self.strides):
            raise ValueError(
                f"{spec.arch!r} gives maps at strides {info.reduction()}; a backbone needs {list(self.strides)}, as resnet18 has"
            )
        self.out_channels: list[int] = info.channels()

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> maps (B, C_i, H/s, W/s), s in `strides`."""
        return self.body(images)

    def part_of(self, name: str) -> str:
        """All of it is one row of the cost table."""
        del name
        return "backbone"

    def layer_ids(self, *, exact: bool = False) -> dict[str, float]:
        """Every parameter at distance 0, `exact` or not: a CNN peer has no layer-wise decay."""
        return {name: 0 for name, _ in self.named_parameters()}

"""One experiment, and what the paper says of it."""

import hashlib
import json
from typing import Annotated, Self

from pydantic import Field, model_validator

from piip.contracts import Score
from piip.spec.backbones import PIIPSpec
from piip.spec.base import DecidesNoNumber, Spec, to_json
from piip.spec.data import CocoSpec, Data
from piip.spec.detection import DetectionSpec
from piip.spec.internimage import InternImageForm
from piip.spec.model import ModelSpec
from piip.spec.speed import SpeedSpec
from piip.spec.training import OptimSpec, TrainSpec
from piip.spec.upgrade import upgraded


class PaperResult(Spec):
    """What the paper and the released tables print for this row; training never reads it."""

    box_ap: float | None = None
    mask_ap: float | None = None
    miou: float | None = None
    top1: float | None = None
    """All four in per cent."""
    params_m: float | None = None
    gflops: float | None = None
    """Both by the convention of the published scripts, not of the network that is trained (see piip/counting/published.py)."""
    config: str | None = None
    """The official configuration, without .py: its weights, log and the golden key manifests carry this name."""
    note: str | None = None
    """Which of these figures belongs to another network than this row's, and why."""


class ExperimentSpec(Spec):
    """One experiment; a line of a table."""

    name: Annotated[str, DecidesNoNumber()] = Field(pattern=r"^[a-z0-9_.]+$")
    model: ModelSpec
    data: Data = CocoSpec()
    optim: OptimSpec = OptimSpec()
    train: TrainSpec = TrainSpec()
    speed: SpeedSpec = SpeedSpec()
    paper: Annotated[PaperResult | None, DecidesNoNumber()] = None

    @model_validator(mode="after")
    def _compiles_whole_weights(self) -> Self:
        if self.speed.compile != "off" and self.train.engine == "deepspeed" and self.train.zero_stage == 3:
            raise ValueError(
                f"speed.compile {self.speed.compile!r} reads a block's weights, which train.zero_stage 3 shards. Take stage 2, or 'off'"
            )
        return self

    @model_validator(mode="after")
    def _attention_has_its_precision(self) -> Self:
        if self.speed.attention in ("flash", "varlen") and self.train.precision != "bf16":
            raise ValueError(
                f"speed.attention {self.speed.attention!r} takes bf16, train.precision is {self.train.precision}. "
                "Set that to bf16, or take 'auto' or 'sdpa'"
            )
        return self

    @model_validator(mode="after")
    def _captured_blocks_run_once(self) -> Self:
        backbone = self.model.backbone
        branches = backbone.branches if isinstance(backbone, PIIPSpec) else ()
        again = [f"model.backbone.branches.{i}.checkpointing" for i, b in enumerate(branches) if b.checkpointing]
        if again and self.speed.compile == "cuda_graphs":
            raise ValueError(
                f"speed.compile 'cuda_graphs' replays each block into the memory of its capture; {again[0]} runs it a second time, in "
                "the backward pass, which nobody has tried. Set it to false in every branch, or take 'blocks'"
            )
        return self

    @model_validator(mode="after")
    def _keypoints_are_there(self) -> Self:
        data, head = self.data, self.model.head
        if head.learned_keypoints and not data.keypoint_scores:
            raise ValueError(
                f"head {head.kind!r} learns keypoints, data of kind {data.kind!r} have none. Take 'keypoints'"
            )
        if head.learned_keypoints and isinstance(data, DetectionSpec) and data.copy_paste:
            raise ValueError("data.copy_paste cuts objects by their masks and loses keypoints. Set it to 0")
        if head.learned_keypoints and isinstance(data, DetectionSpec) and data.views:
            raise ValueError("data.views merges boxes and masks, not keypoints. Leave it out")
        return self

    @model_validator(mode="after")
    def _has_a_kernel(self) -> Self:
        if self.speed.kernel == "triton" and isinstance(self.model.backbone, InternImageForm):
            raise ValueError(
                "speed.kernel 'triton' is for a PIIP's attention, InternImage's DCNv3 has none. Take 'auto'"
            )
        return self

    @model_validator(mode="after")
    def _groups_are_of_its_network(self) -> Self:
        backbone = self.model.backbone
        if self.optim.groups == "internimage" and not isinstance(backbone, InternImageForm):
            raise ValueError(
                f"optim.groups 'internimage' is for InternImage, the backbone is of kind {backbone.kind!r}. Take 'released'"
            )
        return self

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """A spec as `spec.json` of this or an earlier version has it.

        Raises:
            ValueError: It is no spec.
        """
        return cls.model_validate_json(to_json(upgraded(json.loads(text))))

    @property
    def scores(self) -> tuple[Score, ...]:
        """What its runs are compared by, the one that ranks them first: of keypoints where the head finds them."""
        keypoints = self.data.keypoint_scores if self.model.head.learned_keypoints else ()
        return keypoints + self.data.scores

    @property
    def rates(self) -> OptimSpec:
        """`optim` with the rates of this batch."""
        return self.optim.at(self.train.batch_size)

    @property
    def digest(self) -> str:
        """Twelve hex digits that change when a field does, but for those of people and machines (`name`, `paper`, `speed.kernel`)."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:12]

"""What an experiment is: one frozen, typed, JSON-serialisable tree. Imports no torch."""

import difflib
import hashlib
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

MIN_RESOLUTION = 32
"""Pixels: one cell of the coarsest map (stride 32); the largest patches, 16 pixels, then fit too."""


class Spec(BaseModel):
    """Base of every spec: frozen, keyword-only, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    def override(self, changes: dict[str, Any]) -> Self:
        """A validated copy with dotted fields replaced, e.g. `{"optim.lr": 3e-4, "model.backbone.branches.0.resolution": 1568}`.

        Raises:
            ValueError: A name is not a field (the nearest one is named), or a value is refused.
        """
        tree = self.model_dump(mode="json")
        for path, value in changes.items():
            node: Any = tree
            holder: Any = None
            leaf: str | int = path
            for key in path.split("."):
                holder, leaf = node, key
                if isinstance(node, list) and key.isdigit() and int(key) < len(node):
                    node = node[int(key)]
                elif isinstance(node, dict) and key in node:
                    node = node[key]
                else:
                    raise ValueError(f"no field {path!r} in {type(self).__name__}.{_nearest(path, self)}")
            holder[int(leaf) if isinstance(holder, list) else leaf] = value
        try:
            return self.model_validate_json(_to_json(tree))
        except ValidationError as error:
            raise ValueError(f"override {changes} refused. {'; '.join(map(_problem, error.errors()))}") from None

    def flat(self) -> dict[str, Any]:
        """Dotted leaves, as MLflow params, the command line and Tune name them."""
        leaves: dict[str, Any] = {}

        def walk(prefix: str, node: Any) -> None:
            children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else None
            if children is None:
                leaves[prefix] = node
                return
            for key, child in children:
                walk(f"{prefix}.{key}" if prefix else str(key), child)

        walk("", self.model_dump(mode="json"))
        return leaves


def _to_json(tree: Any) -> str:
    import json

    return json.dumps(tree)


def _problem(error: Any) -> str:
    """One finding of pydantic in a few words: our own validators' as they are, its own with what was given."""
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "value_error":
        return f"{where}: {error['ctx']['error']}"
    return f"{where}: {error['msg']} (got {error['input']!r})"


def _nearest(path: str, spec: Spec) -> str:
    """The end of an error message: the field that `path` most likely means, and what else is in its section."""
    names = list(spec.flat())
    nearest = max(names, key=lambda name: (_likeness(path, name), name))
    section = nearest.rpartition(".")[0]
    prefix = f"{section}." if section else ""
    fields = dict.fromkeys(name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix))
    return f" Nearest: {nearest!r}. Fields{section and f' of {section}'}: {', '.join(fields)}"


def _likeness(path: str, name: str) -> float:
    """How likely `path` means the field `name`: by the last word of both, the section, the whole."""
    (section, _, word), (its_section, _, its_word) = path.rpartition("."), name.rpartition(".")
    pair = sorted((word, its_word), key=len)
    # lr of learning_rate, batch of batch_size, epochs of num_epochs
    short_form = len(pair[0]) > 1 and (pair[0] in pair[1] or pair[0] == "".join(p[:1] for p in pair[1].split("_")))
    words = 1.0 if word == its_word else 0.9 if short_form else _ratio(word, its_word)
    return words + 0.5 * (section == its_section) + 0.5 * _ratio(path, name) + path.startswith(f"{name}.")


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


Window = Annotated[int, Field(gt=0)] | None

Family = Literal["deit", "internvit", "beit", "uniperceiver", "convnext"]
"""The official branch classes: vit_models, InternViT6B (also AugReg, MAE, DINOv2), BEiT, UnifiedBertEncoder, ConvNeXt."""

FAMILIES: dict[str, Family] = {
    "beit": "beit",
    "convnext": "convnext",
    "internvit": "internvit",
    "uniperceiver": "uniperceiver",
    "vit_": "internvit",
}
"""How names of `arch` begin; all others are of the `deit` family."""


class BranchSpec(Spec):
    """One image size and the network that sees it."""

    arch: str
    """timm name with its weights' tag, e.g. `deit3_small_patch16_224.fb_in22k_ft_in1k`; ours are `pico_*` (models/pico.py)."""
    resolution: int = Field(ge=MIN_RESOLUTION)
    """Nominal side S_i in pixels; the branch sees the input scaled by S_i / S_0 (S_0 = the first branch's)."""
    pretrained: bool = True
    """Start from the weights of `arch`'s tag."""
    weights: str | None = None
    """File of the family's public pretraining; None takes timm's weights of `arch`'s tag."""
    drop_path: float = Field(default=0.05, ge=0, lt=1)
    drop_path_rule: Literal["constant", "linear"] = "constant"
    """Over the blocks: all alike (published vit_models, classification), or from 0 growing to `drop_path` (all other families)."""
    window: Window | tuple[Window, ...] = 14
    """Attention window in patches; None attends globally. Several are repeated over the blocks: (14, 14, None) makes every third
    block global."""
    window_padding: Literal["before_qkv", "after_qkv"] = "before_qkv"
    """Where maps that are no multiple of the window are zero padded. `before_qkv` is what the published networks were trained
    with; `after_qkv` what the official DeiT code does without flash-attn, with other numbers."""
    patch_size: int | None = Field(default=None, gt=0)
    """Patches in pixels; None: as `arch` was pretrained. Others resize kernel and positions (MAE-H, DINOv2, InternViT-6B: 14 to 16)."""
    positions: Literal["pretraining", "resolution"] = "pretraining"
    """Size the position grid is stored at: the pretraining's, resized for every image (detection), or this branch's resolution
    (segmentation, classification)."""
    layer_scale: float | None = Field(default=1.0, gt=0)
    """Initial layer scale where the pretraining has none (DeiT-1, MAE, AugReg); None: those blocks get none."""
    activation: Literal["gelu", "gelu_tanh"] = "gelu"
    """Of the MLPs; `gelu_tanh` is the published fused MLP ("faster training")."""
    class_token: bool = False
    """A class token without position goes through the blocks with the patches and sits out the interactions (classification)."""
    checkpointing: bool = False
    """Recompute the blocks' activations in the backward pass: less memory, about a third more time."""

    @property
    def family(self) -> Family:
        """Which of the official branch classes `arch` belongs to; decides parameter names and what is resized."""
        for prefix, family in FAMILIES.items():
            if self.arch.startswith(prefix):
                return family
        return "deit"


class InteractionSpec(Spec):
    """How neighbouring branches exchange features (paper section 3.2)."""

    count: int = Field(default=12, ge=0)
    """Number of interactions; every branch's blocks are split evenly between them. 0: branches meet in the merge only."""
    num_heads: int = Field(default=16, gt=0)
    num_points: int = Field(default=4, gt=0)
    value_ratio: float = Field(default=0.5, gt=0)
    """Width of the value inside attention as a part of the query's width."""
    ffn_ratio: float = Field(default=0.25, gt=0)
    drop_path: float = Field(default=0.4, ge=0, lt=1)
    """Stochastic depth of the ConvFFN."""
    attention: Literal["deformable", "dense"] = "deformable"
    """`dense` lets every query see the neighbour's whole map (in the paper's ablation; no released network)."""
    projection: bool = True
    """Project the neighbour's tokens to the query's width before attention; False is a half of the "faster training" form."""
    norms: bool = True
    """LayerNorms of query, feature and FFN; False is the other half of the "faster training" form."""
    kernel: Literal["auto", "cpp", "cuda", "triton", "reference"] = "auto"
    """`auto`: the compiled operator (on CUDA: else Triton) where it can be built, else the PyTorch reference (one line says so)."""


class PIIPSpec(Spec):
    """N >= 1 branches, N - 1 interaction units per interaction, merged into maps of falling resolution."""

    kind: Literal["piip"] = "piip"
    label: str = ""
    """Letters for people, e.g. `TSB`; not part of the digest."""
    branches: tuple[BranchSpec, ...] = Field(min_length=1)
    """From high to low resolution, that is from the smallest to the largest network: TSB, 1120/896/448."""
    interaction: InteractionSpec = InteractionSpec()
    fpn: Literal["simple", "regular", "none"] = "simple"
    """`simple`: all maps from the last merge (ViTs). `regular`: one merge per map, after `merge_after` and at the end (networks
    with ConvNeXt branches). `none`: no merge and no maps, for classification."""
    merge_after: tuple[int, ...] = ()
    """Interactions, counted from 0, after which `regular` merges the first three of its four maps; published: (0, 1, 10)."""
    out_strides: tuple[int, ...] = (4, 8, 16, 32)
    """Strides of the maps; DINO takes (8, 16, 32)."""
    unused_level: bool = False
    """Keep the stride-4 level though `out_strides` leaves it out, as the released three-branch DINO networks do (never used, 8.4 M
    parameters in SBL)."""
    input_branch: int = Field(default=0, ge=0)
    """The branch that sees the input as it is. 0 but for the official three-branch segmentation class (1: the first branch's
    image is then enlarged)."""

    @property
    def resolution(self) -> int:
        """Long side of the network's input."""
        return self.branches[self.input_branch].resolution

    @model_validator(mode="after")
    def _high_to_low_resolution(self) -> Self:
        sides = [b.resolution for b in self.branches]
        if sides != sorted(sides, reverse=True):
            raise ValueError(
                f"branches go from high to low resolution (the smallest model sees the largest image), got {sides}"
            )
        return self

    @model_validator(mode="after")
    def _shape_is_possible(self) -> Self:
        if self.input_branch >= len(self.branches):
            raise ValueError(f"input_branch {self.input_branch} of {len(self.branches)} branches: 0 is the first")
        if self.fpn == "regular" and (
            len(self.merge_after) != 3
            or list(self.merge_after) != sorted(set(self.merge_after))
            or not 0 <= self.merge_after[0] <= self.merge_after[-1] < self.interaction.count
        ):
            raise ValueError(
                f"a regular FPN merges after 3 of the {self.interaction.count} interactions (and at the end), in rising order "
                f"from 0, got merge_after={list(self.merge_after)}; published: [0, 1, 10]"
            )
        if self.fpn != "regular" and self.merge_after:
            raise ValueError(
                f"merge_after={list(self.merge_after)} is for fpn='regular', not {self.fpn!r}: leave it empty"
            )
        if self.out_strides not in ((4, 8, 16, 32), (8, 16, 32)):
            raise ValueError(f"out_strides are (4, 8, 16, 32) or (8, 16, 32), got {self.out_strides}")
        return self


class CNNSpec(Spec):
    """A convolutional network through timm, maps at strides 4, 8, 16, 32: the peers we compare with."""

    kind: Literal["cnn"] = "cnn"
    arch: str
    """timm name, e.g. `resnet18`."""
    resolution: int = Field(ge=MIN_RESOLUTION)
    """Long side of the input in pixels."""
    pretrained: bool = False


class MaskRCNNSpec(Spec):
    """Mask R-CNN as in mmdetection's `mask_rcnn_r50_fpn`, on torchvision's parts."""

    kind: Literal["mask_rcnn"] = "mask_rcnn"
    num_classes: int = Field(default=80, gt=0)
    """Foreground classes."""
    fpn_channels: int = 256
    anchor_scale: float = 8
    """Anchor side in strides; ratios are 1/2, 1, 2; strides 4..64."""
    rpn_pre_nms: int = 2000
    """Proposals per level before NMS in training (half of it in evaluation)."""
    rpn_post_nms: int = 1000
    """Proposals per image after NMS, training and evaluation."""
    box_samples: int = 512
    """Proposals per image the box head learns from; a quarter of them positive."""
    box_channels: int = 1024
    mask_convs: int = 4
    mask_channels: int = 256
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    max_detections: int = 100


class DINOSpec(Spec):
    """DINO (4-scale) detector; its backbone gives three maps. Only the backbone is built so far."""

    kind: Literal["dino"] = "dino"
    num_classes: int = Field(default=80, gt=0)
    """Foreground classes."""
    num_queries: int = Field(default=900, gt=0)


class UPerNetSpec(Spec):
    """UperNet for semantic segmentation with an auxiliary FCN head. Only the backbone is built so far."""

    kind: Literal["upernet"] = "upernet"
    num_classes: int = Field(default=150, gt=0)
    channels: int = Field(default=1536, gt=0)


class ClassifierSpec(Spec):
    """Image classification on the tokens of all branches; the backbone has fpn='none'."""

    kind: Literal["classifier"] = "classifier"
    num_classes: int = Field(default=1000, gt=0)
    merge: bool = False
    """False: a norm and a linear layer per branch, logits averaged (released). True: branches merged, then one of both."""
    head_token: Literal["first_patch", "class", "mean"] = "class"
    """What separate heads read. `first_patch`, the upper left one, is what the released networks were trained and scored with (a
    slip: class tokens were split off one line before); merged heads always take the mean."""


Backbone = Annotated[PIIPSpec | CNNSpec, Field(discriminator="kind")]
Head = Annotated[MaskRCNNSpec | DINOSpec | UPerNetSpec | ClassifierSpec, Field(discriminator="kind")]


class ModelSpec(Spec):
    """A backbone and a head."""

    backbone: Backbone
    head: Head = MaskRCNNSpec()
    weights: str | None = None
    """Fine-tune: start from all weights of this file, DeepSpeed folder or checkpoint of ours, instead of the branches' pretraining
    (upstream's `deepspeed_load_module_only`). Optimizer and step start anew."""
    weights_partial: bool = False
    """Start although tensors are missing in `weights` or have no place here: another head, other classes."""

    @model_validator(mode="after")
    def _head_suits_backbone(self) -> Self:
        if isinstance(self.backbone, PIIPSpec) and (self.backbone.fpn == "none") != (self.head.kind == "classifier"):
            raise ValueError(
                f"a {self.head.kind} head does not go with fpn={self.backbone.fpn!r}: a classifier takes 'none', others maps"
            )
        return self


class CocoSpec(Spec):
    """COCO-format detection data and how an image is prepared. Where the files are is not in the spec (see piip/data)."""

    kind: Literal["coco"] = "coco"
    name: str = "coco"
    """`coco` (under PIIP_DATA), `demo` (made under PIIP_HOME) or `custom` (paths given on the command line)."""
    short_ratio: float = Field(default=800 / 1333, gt=0, le=1)
    """The short side is at most floor(resolution * short_ratio); the long side at most `resolution`."""
    train_scales: tuple[float, ...] = (1.0,)
    """Training draws one of these factors per image and multiplies both limits by it."""
    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability of a horizontal flip in training."""
    pad_multiple: int = Field(default=224, gt=0)
    """Images are zero padded, right and bottom, to a multiple of this."""
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    std: tuple[float, float, float] = (127.5, 127.5, 127.5)
    """RGB, in 0..255."""
    broken_images: Literal["refuse", "skip"] = "refuse"
    """What training does with an image that cannot be decoded."""


class OptimSpec(Spec):
    """AdamW, layer-wise decay, warm-up and a schedule."""

    lr: float = Field(default=1e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(default=0.05, ge=0)
    layer_decay: float = Field(default=0.85, gt=0, le=1)
    """Block j of L in a branch learns at lr * layer_decay ** (L - j); interactions, merge, neck and head at lr."""
    groups: Literal["released", "corrected", "classification"] = "released"
    """`released`: as the official detection code, where branches of 32 blocks beside 48 have their steps rounded down, and position
    embeddings, bias tables and merge weights decay. `corrected`: exact steps, and none of those decays. `classification`: no layer
    decay, lr times ten outside branches, weight decay on everything."""
    warmup_steps: int = Field(default=500, ge=0)
    warmup_ratio: float = Field(default=1e-3, ge=0, le=1)
    schedule: Literal["step", "cosine", "constant"] = "step"
    milestones: tuple[float, ...] = (8 / 12, 11 / 12)
    """Parts of the training after which `step` multiplies the rate by 0.1."""
    clip_norm: float | None = Field(default=None, gt=0)


class TrainSpec(Spec):
    """How long, how precise, by which engine."""

    batch_size: int = Field(default=16, gt=0)
    """Images per optimizer step over all workers."""
    micro_batch: int | None = Field(default=None, gt=0)
    """Images per worker and forward pass; None takes batch_size / workers (no accumulation)."""
    steps: int | None = Field(default=None, gt=0)
    """Optimizer steps; wins over epochs."""
    epochs: float = Field(default=12, gt=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: autocast over fp32 weights; box operations stay fp32."""
    engine: Literal["deepspeed", "ddp"] = "deepspeed"
    zero_stage: Literal[0, 1, 2, 3] = 0
    eval_every: int | None = Field(default=None, gt=0)
    """Steps between evaluations; None evaluates after every epoch (at the end only where an epoch is longer than the training)."""
    save_every: int | None = Field(default=None, gt=0)
    """Steps between checkpoints; None saves when it evaluates, a run of fixed `steps` every 250 too."""
    log_every: int = Field(default=10, gt=0)
    keep: int = Field(default=2, ge=1)
    """Checkpoints kept besides the best one."""
    seed: int = 0

    @model_validator(mode="after")
    def _micro_batch_divides(self) -> Self:
        if self.micro_batch and self.batch_size % self.micro_batch:
            fits = [n for n in range(1, self.batch_size + 1) if self.batch_size % n == 0]
            raise ValueError(
                f"micro_batch {self.micro_batch} does not divide batch_size {self.batch_size}. Fits: {fits}"
            )
        return self


class SpeedSpec(Spec):
    """How the same network is computed sooner. Every switch gives what its plain form gives, to rounding; tests hold them equal."""

    windows: Literal["exact", "padded"] = "exact"
    """`exact`: window attention on real tokens, padded ones as one key of their number's weight. `padded`: as published."""
    interactions: Literal["mixed", "bf16", "fp32"] = "mixed"
    """Under bf16. `mixed`: the attention's value and output layers in bf16, offsets and softmax in fp32. `bf16`: the product that
    gives offsets and logits in bf16, too; their biases are added, and everything after is done, in fp32. `fp32`: all of them, as the
    official code."""
    attention: Literal["auto", "sdpa", "products", "flash", "varlen"] = "auto"
    """`sdpa`: what PyTorch chooses, FlashAttention 2 among it. `products`: two matrix products and a softmax (all logits are held).
    `flash`: FlashAttention 4 (the `flash` extra; bf16, compute capability 9.0 or 10.0). `varlen`: windows of unequal shapes in one
    call (CUDA, bf16). `auto`: `flash` where it can run, `products` on the CPU in bf16, else `sdpa`."""
    heads: Literal["bf16", "fp32"] = "fp32"
    """Layers of proposals, box and mask heads under bf16; boxes, RoIAlign, NMS and losses stay fp32. `fp32`: as the official code."""
    memory: Literal["kept", "returned"] = "kept"
    """`kept`: the process keeps the memory that a step frees for the next one; the most it ever held stays resident (glibc only).
    `returned`: as the C library does by itself."""

    compile: Literal["off", "blocks", "cuda_graphs"] = "off"
    """`blocks`: each branch's block and each interaction's injector goes through torch.compile, in training; every size of image compiles
    anew, so let data.pad_multiple make few. `cuda_graphs`: these regions are captured and replayed, too (mode "reduce-overhead")."""
    streams: bool = False
    """Between interactions every branch runs on a CUDA stream of its own, beside the others."""

    @model_validator(mode="after")
    def _one_stream_is_captured(self) -> Self:
        if self.streams and self.compile == "cuda_graphs":
            raise ValueError(
                "speed.streams and speed.compile 'cuda_graphs' exclude each other: graphs are captured on one stream"
            )
        return self

    @property
    def anywhere(self) -> Self:
        """The switches that decide about rounding; those that ask something of the machine, at their defaults."""
        return type(self)(windows=self.windows, interactions=self.interactions, heads=self.heads)


class PaperResult(Spec):
    """What the paper and the released tables print for this row; training never reads it."""

    box_ap: float | None = None
    mask_ap: float | None = None
    miou: float | None = None
    top1: float | None = None
    """All four in per cent."""
    params_m: float | None = None
    gflops: float | None = None
    """Both by the convention of the published scripts, not of the network that is trained (see piip/models/published.py)."""
    config: str | None = None
    """The official configuration, without .py: its weights, log and the golden key manifests carry this name."""
    note: str | None = None
    """Which of these figures belongs to another network than this row's, and why."""


class ExperimentSpec(Spec):
    """One experiment; a line of a table."""

    name: str = Field(pattern=r"^[a-z0-9_.]+$")
    model: ModelSpec
    data: CocoSpec = CocoSpec()
    optim: OptimSpec = OptimSpec()
    train: TrainSpec = TrainSpec()
    speed: SpeedSpec = SpeedSpec()
    paper: PaperResult | None = None

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

    @property
    def digest(self) -> str:
        """Twelve hex digits that change when anything but `name`, `paper` or the label does."""
        body = self.model_dump(mode="json", exclude={"name": True, "paper": True, "model": {"backbone": {"label"}}})
        return hashlib.sha256(_to_json(body).encode()).hexdigest()[:12]

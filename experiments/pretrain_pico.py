"""Pretrains the pico branches on made-up images, each alone: letters and digits on procedural grounds (piip/data/demo/glyphs.py).

    python experiments/pretrain_pico.py --archs pico_tiny --steps 2000
    python experiments/pretrain_pico.py --archs pico_tiny --steps 1500 --lr 1e-3 --init piip/models/branches/weights --out /tmp/weights

Published PIIPs start from branches pretrained on ImageNet; these start from branches that have read glyphs. Every token says where
in its cell there is a glyph and how far its box reaches, the tokens of a box say which glyph. The demo's photographs and shapes are
not in it. Writes <out>/<arch>.glyphs.safetensors (fp16), what `BranchSpec(arch="pico_tiny.glyphs")` loads.

One core takes 0.2 (tiny), 0.35 (small), 0.45 s (base) a step. Masks and boxes come first; classes stay at chance for the first 500
steps at least, so the weights in the package are from two rounds: 2000 / 1200 / 1500 steps of an earlier task (commit 6757cd2: a class
for every token; after it they knew masks and boxes, and no classes), then from those (--init)

    --images 6000 --lr 1e-3 --steps 2000 (tiny), 1200 (small), 1300 (base)

of this one: 43, 39 and 42 % of the 33 glyphs of held-out images right.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torchvision.ops import roi_align

from piip.console import parse
from piip.data.demo.glyphs import GLYPHS, glyph_image
from piip.models.branches.pico import GEOMETRY, IMAGE, PATCH, WEIGHTS
from piip.models.branches.vit import Branch
from piip.presets import PICO

BOX_SCALE = 64
"""Pixels that count as 1 in the distances to the box."""
WINDOWS = {branch.arch.split(".")[0]: branch.window for branch in PICO.values()}

Samples = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""Images (N, 3, S, S) uint8; labels (N, G) and corners (N, G, 4) of their glyphs; owners of the cells (N, L), masks of the
cells (N, L, patch * patch), distances (N, L, 4)."""


class DenseTask(nn.Module):
    """A branch, what each of its tokens says of its cell, and what the 7 x 7 tokens of a glyph's box say of its class."""

    def __init__(self, branch: Branch) -> None:
        super().__init__()
        self.branch = branch
        self.norm = nn.LayerNorm(branch.embed_dim)
        self.cells = nn.Linear(branch.embed_dim, PATCH**2 + 4)
        # as a detector's box head: it tells classes by where in the box a token lies, which a mean over tokens is slow to learn
        self.classes = nn.Sequential(
            nn.Flatten(), nn.Linear(branch.embed_dim * 49, 128), nn.GELU(), nn.Linear(128, len(GLYPHS) + 1)
        )

    def forward(self, samples: Samples) -> dict[str, Tensor]:
        """Losses, and the part of the glyphs whose class is right."""
        images, labels, corners, owners, masks, distances = samples
        tokens = self.norm(self.branch((images.float() - 127.5) / 127.5))
        pixels, boxes = self.cells(tokens).split((PATCH**2, 4), dim=-1)
        glyph, listed = owners > 0, labels > 0
        map_nchw = tokens.transpose(1, 2).unflatten(2, (IMAGE // PATCH, IMAGE // PATCH))
        rois = [box[seen] for box, seen in zip(corners, listed, strict=True)]
        logits = self.classes(roi_align(map_nchw, rois, 7, 1 / PATCH, aligned=True))
        return {
            "class": F.cross_entropy(logits, labels[listed]),
            "mask": F.binary_cross_entropy_with_logits(pixels, masks.float()),
            "box": F.smooth_l1_loss(boxes[glyph], distances[glyph] / BOX_SCALE, beta=0.1),
            "accuracy": (logits.argmax(dim=-1) == labels[listed]).float().mean(),
        }


def draw_samples(count: int, seed: int) -> Samples:
    """`count` images and their targets; the same for the same seed."""
    drawn = [glyph_image(np.random.default_rng([seed, k]), side=IMAGE, patch=PATCH) for k in range(count)]
    grid = IMAGE // PATCH
    masks = np.stack([d.mask for d in drawn]).reshape(count, grid, PATCH, grid, PATCH).swapaxes(2, 3)
    return (
        torch.from_numpy(np.stack([d.image for d in drawn])).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(np.stack([d.labels for d in drawn])),
        torch.from_numpy(np.stack([d.corners for d in drawn])),
        torch.from_numpy(np.stack([d.owners for d in drawn])).flatten(1),
        torch.from_numpy(masks.reshape(count, grid * grid, PATCH * PATCH)),
        torch.from_numpy(np.stack([d.boxes for d in drawn])).flatten(1, 2),
    )


def batch(samples: Samples, rng: np.random.Generator, size: int) -> Samples:
    """Some of the samples, colours inverted or in another order, half of the batches mirrored."""
    index = torch.from_numpy(rng.integers(len(samples[0]), size=size))
    images, labels, corners, owners, masks, distances = (part[index] for part in samples)
    images = images[:, torch.from_numpy(rng.permutation(3))]
    if rng.random() < 0.5:
        images = 255 - images
    if rng.random() < 0.5:
        grid = (IMAGE // PATCH, IMAGE // PATCH)
        images = images.flip(-1)
        corners = torch.stack(
            [IMAGE - corners[..., 2], corners[..., 1], IMAGE - corners[..., 0], corners[..., 3]], dim=-1
        )
        owners = owners.unflatten(1, grid).flip(2).flatten(1)
        masks = masks.unflatten(1, grid).unflatten(-1, (PATCH, PATCH)).flip(2, -1).flatten(-2).flatten(1, 2)
        distances = distances.unflatten(1, grid).flip(2).flatten(1, 2)[..., [2, 1, 0, 3]]
    return images, labels, corners, owners, masks, distances


def pretrain(
    arch: str,
    samples: Samples,
    held_out: Samples,
    *,
    steps: int,
    batch_size: int,
    lr: float,
    seed: int,
    init: Path | None,
) -> dict[str, Tensor]:
    """The state dict of the timm network `arch` after `steps` steps of AdamW, one-cycle."""
    torch.manual_seed(seed)
    vit = timm.create_model(arch, pretrained=False, num_classes=0)
    assert isinstance(vit, VisionTransformer)
    if init:
        vit.load_state_dict(load_file(weights_name(init, arch)))
    task = DenseTask(Branch(vit, window=WINDOWS[arch]))
    optimizer = torch.optim.AdamW(task.parameters(), lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    rng = np.random.default_rng(seed)
    start = time.monotonic()
    for step in range(1, steps + 1):
        losses = task(batch(samples, rng, batch_size))
        optimizer.zero_grad()
        (losses["class"] + losses["mask"] + losses["box"]).backward()
        nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % max(steps // 20, 1) == 0:
            left = (time.monotonic() - start) / step * (steps - step)
            print(f"{arch} step {step}/{steps}, {_shown(losses)}, {left:.0f} s left", flush=True)
    task.eval()
    with torch.no_grad():
        print(f"{arch} on {len(held_out[0])} images never seen: {_shown(task(held_out))}", flush=True)
    assert task.branch.pos_embed is not None
    # Branch works on the network's own modules; only the positions are a copy
    state = {name: value for name, value in vit.state_dict().items() if name.startswith(("patch_embed.", "blocks."))}
    return state | {"pos_embed": task.branch.pos_embed.detach()}


def weights_name(folder: Path, arch: str) -> Path:
    """Where the weights of `arch` lie in a folder."""
    return folder / f"{arch}.glyphs.safetensors"


def _shown(values: dict[str, Tensor]) -> str:
    return ", ".join(f"{name} {value.item():.3f}" for name, value in values.items())


@dataclass
class Options:
    """What this script is told."""

    archs: tuple[str, ...] = tuple(GEOMETRY)
    """Branches to pretrain, one after the other; not given: all."""
    steps: int = 3000
    """Optimizer steps of each branch."""
    batch_size: int = 16
    """Images of a step."""
    images: int = 8000
    """Images drawn, seen over and over in other colours."""
    lr: float = 1.5e-3
    """The highest learning rate."""
    seed: int = 0
    """Of the images, and of the first weights."""
    init: Path | None = None
    """Folder of weights to go on from; not given: random weights."""
    out: Path = WEIGHTS
    """Folder that weights are written to; not given: the package's own."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the images, pretrain one branch after the other, write their weights."""
    given: Options = parse(Options, prog=None, description=__doc__, arguments=arguments)
    if strange := [arch for arch in given.archs if arch not in GEOMETRY]:
        raise SystemExit(f"no branch {', '.join(strange)}. There are: {', '.join(GEOMETRY)}")

    start = time.monotonic()
    samples, held_out = draw_samples(given.images, given.seed), draw_samples(min(given.images, 256), given.seed + 1)
    print(f"drew {given.images} images in {time.monotonic() - start:.0f} s", flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    for arch in given.archs:
        state = pretrain(
            arch,
            samples,
            held_out,
            steps=given.steps,
            batch_size=given.batch_size,
            lr=given.lr,
            seed=given.seed,
            init=given.init,
        )
        path = weights_name(given.out, arch)
        save_file({name: value.half().contiguous() for name, value in state.items()}, path)
        print(f"wrote {path} ({path.stat().st_size / 1e6:.2f} MB)", flush=True)


if __name__ == "__main__":
    main()

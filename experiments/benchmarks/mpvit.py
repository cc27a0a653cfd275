"""How fast is a training step of MPViT's backbone against the same network written plainly in PyTorch?

    PYTHONPATH=. python experiments/benchmarks/mpvit.py              # T at 320 x 448, batch 2; one and two threads, a few minutes
    PYTHONPATH=. python experiments/benchmarks/mpvit.py --only S --threads 1 --rounds 3

`plain` has the same parameters and computes as formulas are usually typed: tokens and maps are copied into each other, channels first in
front of convolutions, and attention is three einsums. Milliseconds; `difference` is that of the maps from the plain ones, by norm, or
with gradients that of all gradients' norm.
"""

from collections.abc import Callable
from dataclasses import dataclass

import timing
import torch
from torch import Tensor, nn

from piip.models.backbones.mpvit import MPViT, Path
from piip.models.layers.factorised import FactorisedAttention, FactorisedLayer, Neighbours
from piip.presets import MPVIT
from piip.spec import MPViTSpec
from piip.spec.mpvit import HEADS

# B batch, H W map, N = H * W tokens, C channels, h heads, c channels of a head


def plain_maps(network: MPViT, images: Tensor) -> list[Tensor]:
    """The network's maps, by its parameters."""
    x, maps = network.stem(images), []
    for stage in network.stages:
        patches = []
        for embed in stage.embed:
            x = embed(x)
            patches.append(x)
        ways = [plain_path(path, patch) for path, patch in zip(stage.paths, patches, strict=True)]
        x = stage.merge(torch.cat([stage.local(patches[0]), *ways], dim=1))
        maps.append(x)
    return maps


def plain_path(path: nn.Module, x_BCHW: Tensor) -> Tensor:
    """A map through one transformer."""
    assert isinstance(path, Path)
    size = x_BCHW.shape[-2:]
    x_BNC = x_BCHW.flatten(2).transpose(1, 2)
    for layer in path.layers:
        assert isinstance(layer, FactorisedLayer)
        map_BCHW = x_BNC.transpose(1, 2).reshape(x_BCHW.shape)
        x_BNC = (path.position(map_BCHW) + map_BCHW).flatten(2).transpose(1, 2)
        seen = plain_attention(layer.attention, path.neighbours, layer.norm1(x_BNC), (size[0], size[1]))
        x_BNC = x_BNC + layer.drop_path(seen)
        x_BNC = x_BNC + layer.drop_path(layer.mlp(layer.norm2(x_BNC)))
    return x_BNC.transpose(1, 2).reshape(x_BCHW.shape).contiguous()


def plain_attention(
    attention: FactorisedAttention, neighbours: Neighbours, x_BNC: Tensor, size: tuple[int, int]
) -> Tensor:
    """Tokens through factorised attention."""
    batch, tokens, channels = x_BNC.shape
    qkv = attention.qkv(x_BNC).reshape(batch, tokens, 3, HEADS, channels // HEADS).permute(2, 0, 3, 1, 4)
    query_BhNc, key_BhNc, value_BhNc = qkv.unbind(0)
    context = torch.einsum("bhnk,bhnv->bhkv", key_BhNc.softmax(dim=2), value_BhNc)
    found_BhNc = torch.einsum("bhnk,bhkv->bhnv", query_BhNc, context)
    map_BCHW = value_BhNc.transpose(2, 3).reshape(batch, channels, *size)
    parts = map_BCHW.split(neighbours.widths, dim=1)
    around = torch.cat([conv(part) for conv, part in zip(neighbours.convs, parts, strict=True)], dim=1)
    around_BhNc = around.reshape(batch, HEADS, channels // HEADS, tokens).transpose(2, 3)
    found_BhNc = attention.scale * found_BhNc + query_BhNc * around_BhNc
    return attention.proj(found_BhNc.transpose(1, 2).reshape(batch, tokens, channels))


class Case:
    """One size of network and its images."""

    def __init__(self, spec: MPViTSpec, size: tuple[int, int], batch: int, device: torch.device) -> None:
        torch.manual_seed(0)
        self.network = MPViT(spec.override({"drop_path": 0.0})).to(device).train()
        self.images = torch.randn(batch, 3, *size, device=device)

    def methods(self, *, gradients: bool) -> dict[str, Callable[[], list[Tensor]]]:
        """Calls to time: the maps; or the norm of all gradients, after a step."""
        forms = {"plain": lambda: plain_maps(self.network, self.images), "ours": lambda: self.network(self.images)}
        if gradients:
            return {name: lambda form=form: self._step(form) for name, form in forms.items()}
        return {name: lambda form=form: self._forward(form) for name, form in forms.items()}

    def _step(self, form: Callable[[], list[Tensor]]) -> list[Tensor]:
        sum(feature.square().mean() for feature in form()).backward()  # type: ignore[union-attr]
        norm = nn.utils.get_total_norm([p.grad for p in self.network.parameters() if p.grad is not None])
        self.network.zero_grad()
        return [norm]

    def _forward(self, form: Callable[[], list[Tensor]]) -> list[Tensor]:
        with torch.no_grad():
            return form()


def measure(name: str, case: Case, rounds: int) -> list[timing.Row]:
    """A row for the forward pass, and one with gradients."""
    rows: list[timing.Row] = []
    for what in ("forward", "both"):
        methods = case.methods(gradients=what == "both")
        results = {form: method() for form, method in methods.items()}
        seconds = timing.interleaved(methods, rounds=rounds, seconds=0.0, where=case.images.device)
        rows.append(
            {
                "network": name,
                "images": "x".join(map(str, case.images.shape)),
                "what": what,
                "threads": torch.get_num_threads(),
                "plain ms": 1e3 * seconds["plain"],
                "ours ms": 1e3 * seconds["ours"],
                "x plain": seconds["plain"] / seconds["ours"],
                "difference": timing.difference(results["ours"], results["plain"]),
            }
        )
    return rows


@dataclass
class Options(timing.CaseOptions):
    """What this benchmark is told."""

    only: str = "T"
    """Of T, T4, XS, S, B, those whose name is this."""
    rounds: int = 5
    """Turns of each method."""
    size: tuple[int, int] = (320, 448)
    """Height and width of the images."""
    batch: int = 2


def main() -> None:
    """Measures what was asked for and prints a table."""
    given, device = timing.given(Options, __doc__), timing.device()
    timing.known([given.only], MPVIT, "MPViT")
    case = Case(MPVIT[given.only], given.size, given.batch, device)
    rows: list[timing.Row] = []
    for threads in given.threads if device.type == "cpu" else [torch.get_num_threads()]:
        torch.set_num_threads(threads)
        timing.progress(f"MPViT-{given.only}, {threads} threads")
        rows += measure(f"MPViT-{given.only}", case, given.rounds)
    timing.report(rows, as_json=given.json)


if __name__ == "__main__":
    main()

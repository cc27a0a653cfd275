"""What a network costs, as it was counted. Needs no PyTorch: figures that are kept are shown at once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Cost:
    """Compute of one image and size of the network."""

    gflops: float
    """1e9 multiply-adds (MAC = 1, as the papers count): backbone, neck, proposals and heads."""
    params_m: float
    """Million parameters."""
    parts: dict[str, tuple[float, float]]
    """Name -> (gflops, params_m); sums to the whole. PIIP: `branches.0` .. `branches.N-1`, `interactions`, `merge` (with the
    pyramid of maps); a CNN: `backbone`. Then the parts of the head's `probe`."""
    of_head: frozenset[str] = frozenset()
    """Which of the parts are the head's (its neck among them)."""

    @property
    def backbone_gflops(self) -> float:
        """Without the head."""
        return sum(gflops for name, (gflops, _) in self.parts.items() if name not in self.of_head)

    @property
    def backbone_params_m(self) -> float:
        """Without the head."""
        return sum(params for name, (_, params) in self.parts.items() if name not in self.of_head)


def added(costs: Sequence[Cost]) -> Cost:
    """What one network costs that sees several inputs for one image: compute adds up, part by part, its size stays."""
    parts = {name: (sum(cost.parts[name][0] for cost in costs), params) for name, (_, params) in costs[0].parts.items()}
    return replace(costs[0], gflops=sum(cost.gflops for cost in costs), parts=parts)

"""DeepSpeed checkpoints: the module's weights, or the fp32 weights put together from ZeRO's shards.

A folder `global_step<n>/` holds `mp_rank_00_model_states.pt` (stage 3: one `zero_pp_rank_<r>_..._model_states.pt` per rank, with
names and shapes but no values) and one `[bf16_]zero_pp_rank_<r>_mp_rank_00_optim_states.pt` per rank. A shard is a slice of all
parameters of an optimizer group, flat, in fp32. Beside its tensors a shard has pickled classes of DeepSpeed; see read.HARMLESS.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from piip.weights.read import Weights, WeightsError, load_document, unwrap

MODEL, SHARD = "*_model_states.pt", "*zero_pp_rank_*_optim_states.pt"


def is_checkpoint(folder: Path) -> bool:
    """Whether `folder` is what DeepSpeed's save_checkpoint made, or one of its steps."""
    return folder.is_dir() and any(
        any(place.glob(MODEL)) or any(place.glob(SHARD)) for place in (folder, *_steps(folder))
    )


def read_checkpoint(folder: Path) -> Weights:
    """All weights of a checkpoint folder: fp32 from the shards where they are all there, else the module's own.

    Args:
        folder: What save_checkpoint was given (`latest` in it names the step), or `global_step<n>` itself.

    Raises:
        WeightsError: Files missing, damaged, refused or of different shapes.
    """
    step = _step_folder(folder)
    models = sorted(step.glob(MODEL), key=_rank)
    if not models:
        raise WeightsError(
            f"{step} has shards but no mp_rank_00_model_states.pt: the names of the parameters are in it"
        )
    if len(models) > 1 and not models[0].name.startswith("zero_pp_rank_"):
        raise WeightsError(f"{step} is split over {len(models)} model-parallel ranks; only mp_rank_00 is understood")
    document, _ = load_document(models[0])
    shapes = document.get("param_shapes") if isinstance(document, Mapping) else None
    shards = sorted(step.glob(SHARD), key=_rank)
    sharded = len(models) > 1 or models[0].name.startswith("zero_pp_rank_")
    if not shards and not sharded:
        return Weights(own := unwrap(document, models[0]), f"{models[0].name}, {len(own)} tensors")
    if not shapes:
        raise WeightsError(f"{models[0]} lists no param_shapes. Give it by itself to load the weights in it")
    states = [_shard(path) for path in shards]
    expected = _partitions(states[0]) if states else len(models)
    if [_rank(path) for path in shards] != list(range(expected)):
        have = ", ".join(str(_rank(path)) for path in shards) or "none"
        raise WeightsError(
            f"{step} has the shards of ranks {have}; {expected} were written. "
            + ("All are needed" if sharded else f"Give {models[0].name} by itself for the weights in it")
        )
    stage_3 = ["fp32_flat_groups" in state for state in states]
    if any(stage_3) != all(stage_3) or any(stage_3) != sharded:
        raise WeightsError(f"{step}: its shards are of different kinds, of ZeRO 3 and of 1 or 2")
    merged = _stage_3(states, shapes) if sharded else _stage_1_2(states, shapes)
    own = {name: value for name, value in unwrap(document, models[0]).items() if name not in merged and value.numel()}
    tied = {name: merged[of] for name, of in (document.get("shared_params") or {}).items() if of in merged}
    tensors = own | merged | tied
    return Weights(tensors, f"{step.name}, {len(tensors)} tensors, fp32 from {len(shards)} ZeRO shards")


def _steps(folder: Path) -> list[Path]:
    return sorted(folder.glob("global_step*"), key=_rank)


def _step_folder(folder: Path) -> Path:
    if any(folder.glob(MODEL)) or any(folder.glob(SHARD)):
        return folder
    latest = folder / "latest"
    if latest.is_file():
        step = folder / latest.read_text().strip()
        if not step.is_dir():
            raise WeightsError(
                f"{latest} names {step.name}, which is not there. There are: {[s.name for s in _steps(folder)]}"
            )
        return step
    return _steps(folder)[-1]


def _rank(path: Path) -> int:
    """The first number in a name: a shard's rank, a step."""
    found = re.search(r"(?:zero_pp_rank_|mp_rank_|global_step)(\d+)", path.name)
    return int(found[1]) if found else 0


def _shard(path: Path) -> Mapping[str, Any]:
    document, _ = load_document(path)
    state = document.get("optimizer_state_dict") if isinstance(document, Mapping) else None
    if not isinstance(state, Mapping) or not ({"fp32_flat_groups", "single_partition_of_fp32_groups"} & set(state)):
        raise WeightsError(f"{path} is no ZeRO shard: it has no fp32 groups")
    return state


def _partitions(state: Mapping[str, Any]) -> int:
    count = state.get("partition_count", 1)
    return max(count) if isinstance(count, list | tuple) else int(count)


def _stage_1_2(states: Sequence[Mapping[str, Any]], shapes: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Each group's slices in a row, cut into its parameters."""
    tensors: dict[str, Tensor] = {}
    gaps = states[0].get("param_alignment_paddings")
    for index, group in enumerate(shapes):
        flat = torch.cat([state["single_partition_of_fp32_groups"][index] for state in states])
        offset = 0
        for position, (name, shape) in enumerate(group.items()):
            count = math.prod(shape)
            tensors[name] = _cut(flat, offset, count, name).view(tuple(shape))
            offset += count + (gaps[index][position] if gaps else 0)
        # groups are padded to a multiple of 2 * ranks, and older versions round both ends
        if abs(len(flat) - offset) > 4 * len(states):
            raise WeightsError(f"ZeRO group {index} holds {len(flat)} numbers, its parameters are {offset}")
    return tensors


def _stage_3(states: Sequence[Mapping[str, Any]], shapes: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Every parameter is split over all ranks, its last slice padded; a rank's slices follow each other."""
    flats = [torch.cat([group.flatten() for group in state["fp32_flat_groups"]]) for state in states]
    tensors: dict[str, Tensor] = {}
    offset = 0
    for group in shapes:
        for name, shape in group.items():
            count = math.prod(shape)
            part = -(-count // len(states))
            whole = torch.cat([_cut(flat, offset, part, name) for flat in flats])
            tensors[name] = whole[:count].view(tuple(shape))
            offset += part
    return tensors


def _cut(flat: Tensor, offset: int, count: int, name: str) -> Tensor:
    if offset + count > len(flat):
        raise WeightsError(f"ZeRO shards end at {len(flat)}, before {name} at {offset}..{offset + count}")
    return flat[offset : offset + count]

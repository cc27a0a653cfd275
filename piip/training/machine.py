"""What a trial ran on, as tags of its run."""

import os
import platform
import resource
from pathlib import Path

import timm
import torch
import torchvision

from piip.models.speed import active_attention
from piip.ops.deform_attn import active_kernel
from piip.spec import ExperimentSpec


def peak_memory_gb() -> float:
    """The most memory this process has held, in 1e9 bytes: of the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def tags(spec: ExperimentSpec, engine: str, device: torch.device, world_size: int) -> dict[str, str]:
    """What ran, as tags: kernel, attention, engine, hardware, versions."""
    kernel = active_kernel(spec.speed.kernel, device.type) if spec.model.samples else "none"
    return {
        "piip.kernel": kernel,
        "piip.attention": active_attention(spec.speed.attention, device, spec.train.precision),
        "piip.engine": engine,
        "piip.workers": str(world_size),
        "hardware.device": torch.cuda.get_device_name() if device.type == "cuda" else _processor(),
        "hardware.host": platform.node(),
        "version.torch": torch.__version__,
        "version.torchvision": torchvision.__version__,
        "version.timm": timm.__version__,
        "version.python": platform.python_version(),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        if cpuinfo.exists()
        else []
    )
    return f"{names[0] if names else platform.processor()} x {os.cpu_count()}"

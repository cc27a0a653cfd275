"""What nvcc made of the CUDA kernels: registers, spills, vector instructions. `piip ops build --cuda --check` needs no GPU."""

import itertools
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from piip.ops.compiled import cpu, cuda
from piip.ops.compiled.cpu import BuildError

KERNEL = re.compile(r"(forward|backward|planes)(?:_pair)?_kernelILi(\d+)E(?:Li(\d+)E)?([flv]?)\w*?(Li0E)?E*vNS")
SUMS = {"l": ", integers", "v": ", no value"}  # template argument of backward -> how the value's gradient is summed


@dataclass(frozen=True)
class Kernel:
    """One kernel for one storage and architecture."""

    op: str
    storage: str
    architecture: str
    name: str
    """As `backward 24, integers`: direction, channels of a head (`any`; `12+24`: of two calls in one launch), how the value's gradient is
    summed; or `planes 4, any`: channels of a block, any number of points."""
    registers: int
    spilled: int
    """Bytes of the stack: spills and arrays that are no registers."""
    instructions: int
    loads: dict[str, int]
    """Global loads by size in bits."""
    reds: dict[str, int]
    """Atomic additions by kind: F32x4, F32x2, F32 and 64 to global memory, ATOMS to shared memory, CAS for loops around one."""

    def faults(self) -> list[str]:
        """What must not be."""
        faults = [f"{self.spilled} bytes of stack"] if self.spilled else []
        if self.name.startswith("planes"):
            return faults + (["no native shared additions"] if "ATOMS" not in self.reds or "CAS" in self.reds else [])
        if "any" not in self.name and not self.loads.get("128"):
            faults.append("no load of 128 bits")
        sums_floats = self.name.startswith("backward") and "any" not in self.name and "," not in self.name
        if sums_floats and int(self.architecture) >= 90 and not (self.reds.keys() & {"F32x4", "F32x2"}):
            faults.append("no vector RED")
        return faults


def kernels(op: str, storage: str, architecture: str) -> list[Kernel]:
    """Compiles one of `cuda.OPS` for one storage and architecture and reads what came out.

    Raises:
        BuildError: No nvcc, no nvdisasm, or one of them failed.
    """
    disassembler = find_nvdisasm()
    with tempfile.TemporaryDirectory() as scratch:
        target = str(Path(scratch) / "kernels.cubin")
        flags = (
            "-O3",
            "-std=c++20",
            f"-arch=sm_{architecture}",
            "-cubin",
            "-Xptxas",
            "-v",
            *cuda.storage_flags(storage),
        )
        command = [cuda.find_nvcc(), *flags, str(cpu.sources() / f"{op}_cuda.cu"), "-o", target]
        resources = _resources(cpu.run(command, f"compiling the CUDA kernels ({op}, {storage}, sm_{architecture})"))
        code = _code(cpu.run([disassembler, target], "disassembling"))
    found = []
    for symbol, (registers, spilled) in resources.items():
        if (match := KERNEL.search(symbol)) is None:
            continue
        direction, channels, others, sums, any_points = match.groups()
        widths = f"{channels}+{others}" if others else "any" if channels == "0" else channels
        name = f"{direction} {widths}{SUMS.get(sums, '')}"
        name += ", any" if direction == "planes" and any_points else ""
        counts = code[symbol]
        loads, reds = {}, {}
        for instruction, count in counts.items():
            kind = instruction.split(".")
            if kind[0] == "LDG":
                width = next((k for k in kind if k in ("64", "128", "U16", "U8")), "32").lstrip("U")
                loads[width] = loads.get(width, 0) + count
            elif kind[0] == "ATOMS":
                what = "CAS" if "CAS" in instruction else "ATOMS"
                reds[what] = reds.get(what, 0) + count
            elif kind[0] in ("RED", "REDG"):
                what = next(k for k in kind if k.startswith("F32") or k == "64")
                reds[what] = reds.get(what, 0) + count
        found.append(Kernel(op, storage, architecture, name, registers, spilled, sum(counts.values()), loads, reds))
    return found


def _resources(log: str) -> dict[str, tuple[int, int]]:
    """Symbol -> registers and bytes of stack, from what ptxas -v says."""
    stack = r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
    pattern = rf"Function properties for (\S+)\n\s*{stack}\n.*?Used (\d+) registers"
    return {m[0]: (int(m[4]), max(map(int, m[1:4]))) for m in re.findall(pattern, log)}


def _code(listing: str) -> dict[str, dict[str, int]]:
    """Symbol -> instruction -> how often it stands in the code."""
    code: dict[str, dict[str, int]] = {}
    for part in re.split(r"\n(?=\s*\.section\s+\.text\.)", listing):
        if (head := re.match(r"\s*\.section\s+\.text\.([^\s,]+),", part)) is None:
            continue
        counts = code.setdefault(head[1], {})
        for name in re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Za-z0-9_.]*)", part, re.MULTILINE):
            if name != "NOP":
                counts[name] = counts.get(name, 0) + 1
    return code


def find_nvdisasm() -> str:
    """The disassembler of the CUDA toolkit, or the one Triton brings."""
    toolkit = Path(cuda.find_nvcc()).with_name("nvdisasm")
    triton = find_spec("triton")
    places = [
        toolkit,
        *(
            Path(p) / "backends/nvidia/bin/nvdisasm"
            for p in (triton.submodule_search_locations if triton else []) or []
        ),
    ]
    found = shutil.which("nvdisasm") or next((str(p) for p in places if p.exists()), None)
    if found is None:
        raise BuildError("no nvdisasm: it comes with CUDA (cuda-nvdisasm) and with Triton. Put it in PATH.")
    return found


def main(
    ops: Sequence[str] = cuda.OPS,
    storages: Sequence[str] = tuple(cuda.STORAGES),
    architectures: Sequence[str] = cuda.ARCHITECTURES,
) -> int:
    """Prints a line per kernel; 1 where one has a fault."""
    todo = list(itertools.product(ops, storages, architectures))
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = [kernel for part in pool.map(kernels, *zip(*todo, strict=True)) for kernel in part]
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    print(
        f"{'op':12}{'storage':14} {'sm':>4} {'kernel':26} {'registers':>9} {'stack':>5} {'instructions':>12}  "
        "loads (bits: number)     additions"
    )
    for kernel in sorted(found, key=lambda k: (k.op, int(k.architecture), k.storage, k.name)):
        loads = ", ".join(f"{bits}: {n}" for bits, n in sorted(kernel.loads.items(), key=lambda item: -int(item[0])))
        reds = ", ".join(f"{kind}: {n}" for kind, n in kernel.reds.items())
        which = f"{kernel.op:12}{kernel.storage:14} {kernel.architecture:>4} {kernel.name:26}"
        size = f"{kernel.registers:9} {kernel.spilled:5} {kernel.instructions:12}"
        print(f"{which} {size}  {loads:24} {reds}  {'; '.join(kernel.faults())}".rstrip())
    faulty = [kernel for kernel in found if kernel.faults()]
    print(f"{len(found)} kernels, {len(faulty)} with a fault")
    return 1 if faulty or not found else 0

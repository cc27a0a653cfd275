"""Compiles the CUDA kernels of `csrc/` and loads them, at first use where there is a GPU; `piip ops build --cuda` does so by hand.

As for the CPU (cpu.py), the library lands in `home()/kernels/<hash>/`. The compiler is nvcc of the environment variable NVCC, of
CUDA_HOME, of PATH, or of /usr/local/cuda. PyTorch's side of the ops, and it alone, sees PyTorch's headers: the C++ compiler compiles it.
"""

import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import torch

from piip.ops.compiled import cpu
from piip.ops.compiled.cpu import BuildError, Library

log = logging.getLogger(__name__)

OPS = ("deform_attn", "sampling")  # <name>_cuda.cpp is PyTorch's side, <name>_cuda.cu the kernels
FLAGS = ("-O3", "-std=c++20", "-lineinfo", "-Xcompiler", "-fPIC")
LINK = ("-shared", "-cudart", "static", f"-L{cpu.TORCH / 'lib'}", "-ltorch_cuda", "-ltorch_cpu")
ARCHITECTURES = ("80", "90", "100")  # A100, H100 and H200, B200; code for a GPU that is here is made for what it is
STORAGES = {  # name -> types of the value, and of offsets and logits (csrc/cuda_types.h)
    "float_float": ("Float", "Float"),
    "half_half": ("Half", "Half"),
    "half_float": ("Half", "Float"),
    "bfloat_bfloat": ("BFloat", "BFloat"),
    "bfloat_float": ("BFloat", "Float"),
}


def load() -> bool:
    """Makes the CUDA kernels available in this process; compiles them first if no process has.

    Returns:
        False where that is not possible. One log line has then said why, at the first call.
    """
    return isinstance(_load(), Library)


def problem() -> str:
    """Why `load()` is False, and what to do; empty when it is True."""
    outcome = _load()
    return "" if isinstance(outcome, Library) else outcome


@functools.cache
def _load() -> Library | str:
    try:
        if not torch.cuda.is_available():
            raise BuildError("PyTorch sees no CUDA GPU here.")
        library = compile_sources(architectures_here())
        torch.ops.load_library(library.path)
        return library
    except (BuildError, OSError) as error:
        log.warning(
            "the CUDA kernels cannot be used, Triton or plain PyTorch runs instead (same results, slower): %s", error
        )
        return str(error)


def architectures_here() -> tuple[str, ...]:
    """Compute capabilities of the GPUs PyTorch sees; all supported ones where it sees none.

    Raises:
        BuildError: A GPU is older than the kernels can be.
    """
    if not torch.cuda.is_available():
        return ARCHITECTURES
    capabilities = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
    if min(capabilities) < (8, 0):
        raise BuildError(
            f"a GPU here has compute capability {min(capabilities)}, the CUDA kernels take (8, 0) or newer."
        )
    return tuple(f"{major}{minor}" for major, minor in sorted(capabilities))


def find_nvcc() -> str:
    """The command nvcc."""
    if given := os.environ.get("NVCC"):
        if shutil.which(given) is None:
            raise BuildError(f"no CUDA compiler {given!r} (NVCC names no program). Set it to nvcc of CUDA 12 or newer.")
        return given
    toolkits = [Path(root) / "bin" / "nvcc" for root in (os.environ.get("CUDA_HOME"), "/usr/local/cuda") if root]
    found = next(filter(None, map(shutil.which, (*toolkits[:-1], "nvcc", toolkits[-1]))), None)
    if found is None:
        raise BuildError(
            "no CUDA compiler: nvcc is neither in CUDA_HOME, PATH nor /usr/local/cuda. Install CUDA 12 or newer, or set NVCC."
        )
    return found


def storage_flags(name: str) -> tuple[str, ...]:
    """What nvcc has to know to compile <op>_cuda.cu for one storage."""
    value, location = STORAGES[name]
    return f"-DPIIP_STORAGE={name}", f"-DPIIP_VALUE={value}", f"-DPIIP_LOCATION={location}"


def compile_sources(architectures: Sequence[str]) -> Library:
    """The library for some architectures ("90"), compiled if nobody has.

    Raises:
        BuildError: No compiler, a PyTorch without CUDA, or the compiler failed.
    """
    if torch.version.cuda is None:
        raise BuildError(f"PyTorch {torch.__version__} was built without CUDA. Install one with it.")
    compilers = [find_nvcc()], cpu.find_compiler()
    versions = [cpu.run([*c, "--version"], "asking for the compiler's version") for c in compilers]
    release = next(line for line in versions[0].splitlines() if "release" in line)
    digest = _digest((*map(shlex.join, compilers), *versions, *architectures))
    described = f"{shlex.join(compilers[0])}: {release}, for {', '.join(f'sm_{a}' for a in architectures)}"
    return cpu.compiled_once(digest, described, lambda scratch: _compile(*compilers, architectures, scratch))


def _compile(nvcc: list[str], compiler: list[str], architectures: Sequence[str], scratch: Path) -> Path:
    folder, library = cpu.sources(), scratch / "piip_ops_cuda.so"
    codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    torch_side = (*cpu.FLAGS, cpu.STABLE_ABI, "-DUSE_CUDA", f"-I{cpu.TORCH / 'include'}")
    commands = {"classic": [*nvcc, *FLAGS, *codes, "-c", str(folder / "deform_attn_classic_cuda.cu")]}
    for op in OPS:
        commands[op] = [*compiler, *torch_side, "-c", str(folder / f"{op}_cuda.cpp")]
        for name in STORAGES:
            source = str(folder / f"{op}_cuda.cu")
            commands[f"{op}_{name}"] = [*nvcc, *FLAGS, *codes, *storage_flags(name), "-c", source]
    objects = [str(scratch / f"{name}.o") for name in commands]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = {
            pool.submit(cpu.run, [*command, "-o", target], f"compiling the CUDA kernels ({name})"): name
            for (name, command), target in zip(commands.items(), objects, strict=True)
        }
        log.info("compiling %d files for %d architectures: about 3 minutes of CPU time", len(jobs), len(architectures))
        for done, job in enumerate(as_completed(jobs), 1):
            job.result()
            log.info("%d/%d %s", done, len(jobs), jobs[job])
    cpu.run([*nvcc, *objects, *LINK, "-o", str(library)], "linking")
    return library


def _digest(parts: Sequence[str]) -> str:
    parts = [
        *parts,
        torch.__version__,
        str(torch.version.cuda),
        platform.machine(),
        *platform.libc_ver(),
        *FLAGS,
        *cpu.FLAGS,
        *LINK,
    ]
    parts += [flag for name in STORAGES for flag in storage_flags(name)]
    digest = hashlib.sha256("\n".join(parts).encode())
    for file in sorted((*cpu.sources().glob("*cuda*"), *cpu.sources().glob("sampling*.h"))):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]

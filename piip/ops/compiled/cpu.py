"""Compiles `csrc/` for the CPU, once per machine and version, and loads it; `piip ops build` does so by hand.

The library lands in `home()/kernels/<hash>/`, where the hash covers sources, flags, compiler, PyTorch and platform. It is built
with the compiler of the environment variable CXX, or g++.
"""

import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

from piip.home import home, shipped

log = logging.getLogger(__name__)

_found = find_spec("torch")  # found, not imported: --help does not wait for it
assert _found is not None
assert _found.origin is not None
TORCH = Path(_found.origin).parent

FLAGS = ("-O2", "-std=c++20", "-fPIC", "-Wno-psabi", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
OPS = ("deform_attn", "sampling")  # <name>.cpp is PyTorch's side, <name>_kernel.cpp the arithmetic
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000"  # 2.10: the oldest PyTorch the built library would load in
X86 = {
    # With -O2 g++ 12 keeps sums of 16 channels in memory here: half as fast. Elsewhere -O3 brings nothing but half of the compile time.
    "avx2": ("-O3", "-mavx2", "-mfma"),
    "avx512": ("-mavx2", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"),
}


class BuildError(Exception):
    """What went wrong, and what to do about it, in one line."""


@dataclass(frozen=True)
class Library:
    """The compiled ops on disk."""

    path: Path
    compiler: str
    seconds: float
    """Time to compile; 0 when it was there."""

    @property
    def lines(self) -> str:
        """Says what was compiled, for people."""
        time = f"{self.seconds:.1f} s" if self.seconds else "0 s, it was compiled before"
        return f"compiler  {self.compiler}\ntime      {time}\nlibrary   {self.path}"


def load() -> bool:
    """Makes the compiled ops available in this process; compiles them first if no process has.

    Returns:
        False where that is not possible. One log line has then said why, at the first call.
    """
    return isinstance(loaded(), Library)


def problem() -> str:
    """Why `load()` is False, and what to do; empty when it is True."""
    outcome = loaded()
    return "" if isinstance(outcome, Library) else outcome


@functools.cache
def loaded() -> Library | str:
    """The library, compiled and loaded at the first call; or why that is not possible, and what to do."""
    import torch

    try:
        library = compile_sources()
        torch.ops.load_library(library.path)
        return library
    except (BuildError, OSError) as error:
        log.warning("the compiled kernels cannot be used, plain PyTorch runs instead (same results, slower): %s", error)
        return str(error)


def compile_sources() -> Library:
    """The library for this machine, compiled if nobody has.

    Raises:
        BuildError: No compiler, or it failed.
    """
    compiler = find_compiler()
    version = run([*compiler, "--version"], "asking for the compiler's version").splitlines()[0]
    described = f"{shlex.join(compiler)}: {version}"
    return compiled_once(_digest(compiler, version), described, lambda scratch: _compile(compiler, scratch))


def compiled_once(digest: str, described: str, make: Callable[[Path], Path]) -> Library:
    """The library of a digest in `home()/kernels/`; of many workers that start together one compiles, the others wait for it.

    Args:
        digest: Of all that decides its code.
        described: The compiler, for people.
        make: Compiles in a folder it is given and returns the library there.
    """
    folder = home() / "kernels" / digest
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if (there := next(folder.glob("*.so"), None)) is not None:
            return Library(there, described, 0.0)
        start = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="building_") as scratch:
            built = make(Path(scratch))
            folder.mkdir(exist_ok=True)
            library = built.rename(folder / built.name)
        return Library(library, described, time.perf_counter() - start)


def find_compiler() -> list[str]:
    """The command of the C++ compiler, with any arguments CXX has (`ccache g++`)."""
    command = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    if shutil.which(command[0]) is None:
        hint = "CXX names no program" if os.environ.get("CXX") else "g++ is not installed"
        raise BuildError(f"no C++ compiler {command[0]!r} ({hint}). Install one, e.g. `apt install g++`, or set CXX.")
    return command


def sources() -> Path:
    """The folder `csrc`.

    Raises:
        BuildError: It is not there.
    """
    try:
        return shipped("csrc")
    except ValueError as error:
        raise BuildError(str(error)) from error


def _units() -> dict[str, tuple[str, ...]]:
    """Object name -> source and its own flags: the kernels once per instruction set, chosen among when they run."""
    units = {op: (f"{op}.cpp", "-O1", STABLE_ABI, f"-I{TORCH / 'include'}") for op in OPS}
    for isa, flags in {"portable": (), **(X86 if platform.machine() == "x86_64" else {})}.items():
        for op in OPS:
            units[f"{op}_{isa}"] = (f"{op}_kernel.cpp", f"-DPIIP_ISA={isa}", *flags)
    if platform.machine() == "x86_64":
        flags = ("-DPIIP_ISA=avx512bf16", *X86["avx512"], "-mavx512bf16", "-O3")  # 3 to 4 % at 6 channels
        units["deform_attn_avx512bf16"] = ("deform_attn_bf16.cpp", *flags)
    return units


def _compile(compiler: list[str], scratch: Path) -> Path:
    folder, library = sources(), scratch / "piip_ops.so"

    def compile_unit(name: str) -> str:
        source, *flags = _units()[name]
        target = str(scratch / f"{name}.o")
        run([*compiler, *FLAGS, *flags, "-c", str(folder / source), "-o", target], f"compiling {source} ({name})")
        return target

    with ThreadPoolExecutor() as pool:
        objects = list(pool.map(compile_unit, _units()))
    run([*compiler, "-shared", *objects, f"-L{TORCH / 'lib'}", "-ltorch_cpu", "-o", str(library)], "linking")
    return library


def run(command: list[str], what: str) -> str:
    """What a compiler printed.

    Raises:
        BuildError: It failed; its first line with `error`.
    """
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        lines = done.stdout.strip().splitlines() or [f"exit status {done.returncode}"]
        cause = next((line for line in lines if "error" in line), lines[-1])
        raise BuildError(
            f"{what} failed: {cause} (in full: {shlex.join(command)}). It takes a C++20 compiler such as g++ 11 or newer; set CXX to one."
        )
    return done.stdout


def _digest(compiler: list[str], version: str) -> str:
    import torch

    parts = [version, torch.__version__, platform.machine(), *platform.libc_ver(), *compiler, *FLAGS]
    parts += [part for unit in _units().values() for part in unit if not part.startswith("-I")]
    digest = hashlib.sha256("\n".join(parts).encode())
    for file in sorted(sources().iterdir()):
        if file.suffix in (".cpp", ".h") and "cuda" not in file.name:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]

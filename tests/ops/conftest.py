import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from piip.ops.compiled import cpu


@pytest.fixture
def compiled():
    """The compiled kernels. Without a compiler the test is skipped; with one, a build that fails is a failure."""
    try:
        cpu.find_compiler()
    except cpu.BuildError as error:
        pytest.skip(str(error))
    assert cpu.load(), cpu.problem()


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=["reference", "cpp"])
def kernel(request):
    """Every kernel there is; a test that takes it runs once for each."""
    if request.param == "cpp":
        request.getfixturevalue("compiled")
    return request.param


@pytest.fixture(scope="session")
def on_host(tmp_path_factory):
    """(dtype of the value, dtype of the points, architecture) -> the launches of csrc/<op>_cuda.cu on the CPU; compiled when asked for."""
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    folder, libraries = tmp_path_factory.mktemp("cuda_on_host"), {}
    types = {torch.float32: "Float", torch.float16: "Half", torch.bfloat16: "BFloat"}

    def library(value, location, architecture=900, op="deform_attn"):
        target = folder / f"{op}_{types[value]}_{types[location]}_{architecture}.so"
        if target not in libraries:
            flags = ["-std=c++20", "-O1", "-w", "-fPIC", "-shared", f"-I{cpu.sources()}"]
            flags += [f"-DPIIP_VALUE={types[value]}", f"-DPIIP_LOCATION={types[location]}", "-DPIIP_STORAGE=storage"]
            flags += [f"-D__CUDA_ARCH__={architecture}", f"-DPIIP_SAMPLING={int(op == 'sampling')}"]
            source = str(Path(__file__).with_name("cuda_on_host.cpp"))
            subprocess.run(["g++", *flags, source, "-o", str(target)], check=True)
            libraries[target] = made = ctypes.CDLL(str(target))
            for question in ("planes_fit", "paired") if op == "deform_attn" else ():
                getattr(made, question).restype = ctypes.c_bool
        return libraries[target]

    return library

import pytest
import torch

from piip.ops import build


@pytest.fixture
def compiled():
    """The compiled kernels. Without a compiler the test is skipped; with one, a build that fails is a failure."""
    try:
        build.find_compiler()
    except build.BuildError as error:
        pytest.skip(str(error))
    assert build.load(), build.problem()


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

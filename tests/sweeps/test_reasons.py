import pytest
from ray.exceptions import OutOfMemoryError, RayTaskError
from ray.train import ControllerError, WorkerGroupError

from piip.spec import OptimSpec
from piip.sweeps.reasons import LONGEST, OURS, cut, reason_of

# as Ray 2.56 words it, its middle and its end shortened
KILLED = (
    """6 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2, ID: 107c) was \
22.72GB used / 23.54GB limit (0.965079)
OOM kill reason: Memory usage 24037163008B exceeded threshold of 24012677120B (95.0% of 25276502016B limit)
Ray killed 6 worker(s) based on the killing policy
Refer to the documentation on how to address the out of memory issue. """
    + 40 * "Consider provisioning more memory. "
)


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError(KILLED),
        ControllerError(OutOfMemoryError(KILLED)),
        WorkerGroupError(f"[Rank 0 Error Snippet]:\nA worker health check failed.\n{KILLED}", {}),
    ],
)
def test_a_machine_out_of_memory_is_one_sentence_with_figures_and_what_to_do(error):
    reason = reason_of(error)

    assert reason.startswith(
        "the machine ran out of memory (22.72 of 23.54 GiB in use): the same command tries it again"
    )
    for remedy in ("--concurrent 1", "--max-memory-gb", "train.batch_size"):
        assert remedy in reason
    assert len(reason) < 250
    assert "\n" not in reason


def test_memory_without_figures_is_told_without():
    assert reason_of(OutOfMemoryError("killed")).startswith("the machine ran out of memory: the same command")


ADVICE = "3 of 20 images cannot be used:\n  a.jpg: truncated\n  b.jpg: not there\nTo leave them out: --set data.broken_images=skip"


@pytest.mark.parametrize(
    "error",
    [
        ValueError(ADVICE),
        WorkerGroupError("[Rank 1 Error Snippet]:\n ..", {2: RuntimeError("gone"), 1: ValueError(ADVICE)}),
        ControllerError(ValueError(ADVICE)),
        RayTaskError("part", f"Traceback:\n  File x\nValueError: {ADVICE}", ValueError(ADVICE)).as_instanceof_cause(),
        WorkerGroupError(f'Traceback:\n  File "x", line 2\n    read()\n    ^^^^\nValueError: {ADVICE}', {}),
    ],
)
def test_an_error_of_several_lines_is_told_from_its_first_line_to_its_last(error):
    assert reason_of(error) == f"ValueError: {' '.join(ADVICE.split())}"


def test_an_error_of_pydantic_says_of_what_and_where():
    with pytest.raises(ValueError, match="lr") as refused:
        OptimSpec(lr=-1)

    assert reason_of(refused.value).startswith("ValidationError: 1 validation error for OptimSpec lr Input should be")


def test_a_reason_is_cut_between_words():
    said = reason_of(WorkerGroupError("[Rank 0]:\n  File x\nRuntimeError: " + 100 * "word ", {}))

    assert said.startswith("RuntimeError: word word")
    assert said.endswith("word ...")
    assert LONGEST - 10 < len(said) <= LONGEST
    assert LONGEST < len(reason_of(RuntimeError(100 * "word "))) <= OURS
    # a GPU's memory is another matter: its own text says which
    gpu = WorkerGroupError("File x\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", {})
    assert reason_of(gpu).endswith("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert reason_of(RuntimeError()) == "RuntimeError"


def test_a_short_text_stays_and_a_word_without_end_is_cut_within():
    assert cut("loss is nan\n at step 3") == "loss is nan at step 3"
    assert cut("x" * 300, 100) == "x" * 96 + " ..."

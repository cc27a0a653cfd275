"""Files of others: what is in them comes out, what is wrong with them is said, nothing in them is run."""

import argparse
import os
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from piip.weights.read import WeightsError, read_file
from piip.weights.sources import read_weights

TENSORS = {"backbone.w1": torch.tensor(1.5), "neck.weight": torch.arange(4096.0)}


class Malicious:
    """What unpickling would run."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pth"


def same(tensors, expected=TENSORS):
    assert list(tensors) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(tensors[name], value, atol=0, rtol=0)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: t,
        lambda t: {"meta": {"epoch": 12, "CLASSES": ("cat", "dog")}, "state_dict": OrderedDict(t)},
        lambda t: {"model": t, "optimizer": {}, "epoch": 3},
        lambda t: {"module": OrderedDict(t), "ds_version": "0.8.0"},
        lambda t: {"state_dict": {f"module.{name}": value for name, value in t.items()}},
        lambda t: {"model": t, "args": argparse.Namespace(lr=1e-3)},
        lambda t: {"model": {"state_dict": t}},
    ],
    ids=["plain", "mmdet", "classification", "deepspeed", "data_parallel", "with_args", "nested"],
)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_tensors_come_out_of_every_layout(path, wrap, legacy):
    torch.save(wrap(TENSORS), path, _use_new_zipfile_serialization=not legacy)

    same(read_file(path).tensors)


def test_classes_of_mmdet_are_known(path):
    torch.save({"meta": {"CLASSES": ["cat", "dog"]}, "state_dict": TENSORS}, path)

    assert read_file(path).classes == ("cat", "dog")


def test_safetensors(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors")

    same(read_file(tmp_path / "model.safetensors").tensors)


def refusal(path, **arguments) -> str:
    with pytest.raises(WeightsError) as refused:
        read_weights(path, **arguments)
    text = str(refused.value)
    assert "\n" not in text
    assert len(text) < 500
    assert str(path) in text
    return text


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_malicious_pickle_is_refused_and_not_run(path, tmp_path, legacy):
    document = {"state_dict": TENSORS, "hook": Malicious(tmp_path / "owned")}
    torch.save(document, path, _use_new_zipfile_serialization=not legacy)

    text = refusal(path)

    assert "refused: its pickle asks for posix.mkdir" in text
    assert not (tmp_path / "owned").exists()
    torch.load(path, weights_only=False)  # the file is as bad as the test says
    assert (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", ["builtins.eval", "deepspeed.runtime.zero.stage3.DeepSpeedZeroOptimizer_Stage3"])
def test_other_names_are_refused(path, name):
    module, _, function = name.rpartition(".")
    call = b"c" + module.encode() + b"\n" + function.encode() + b"\n(X\x01\x00\x00\x001tR."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", b"\x80\x02" + call)
        archive.writestr("model/version", "3\n")
        archive.writestr("model/byteorder", "little")

    assert f"asks for {name.removeprefix('builtins.')}" in refusal(path)


@pytest.mark.parametrize("part", [0.999, 0.9, 0.5, 0.01])
def test_a_truncated_file_is_refused(path, part):
    torch.save({"state_dict": TENSORS}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])

    assert "cut short" in refusal(path)


@pytest.mark.parametrize("part", [0.999, 0.5, 0.05])
def test_a_truncated_file_of_before_2020_is_refused(path, part):
    torch.save({"state_dict": TENSORS}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])

    assert "cut short" in refusal(path)


def test_a_truncated_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:-100])

    assert "cut short" in refusal(path)


def test_one_flipped_bit_in_a_tensor_is_refused(path):
    torch.save({"state_dict": TENSORS}, path)
    content = bytearray(path.read_bytes())
    at = content.find(torch.tensor([1000.0, 1001.0]).numpy().tobytes())
    assert at > 0
    content[at] ^= 1
    path.write_bytes(content)

    assert not torch.equal(
        torch.load(path)["state_dict"]["neck.weight"], TENSORS["neck.weight"]
    )  # torch does not see it
    assert "damaged: Bad CRC-32" in refusal(path)


def test_every_byte_of_the_records_counts(path):
    torch.save({"state_dict": {"a": torch.arange(8.0)}}, path)
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        records = [(r.header_offset + 30 + len(r.filename), r.file_size) for r in archive.infolist()]
    changed = 0
    for start, size in records:
        # the records' bytes follow an extra field of padding
        for at in range(start, start + size, 7):
            damaged = bytearray(content)
            damaged[at] ^= 0x10
            path.write_bytes(damaged)
            try:
                tensors = read_file(path).tensors
            except WeightsError:
                changed += 1
            else:
                same(tensors, {"a": torch.arange(8.0)})
    assert changed > 20


def test_the_digest_in_a_public_files_name_is_checked(tmp_path):
    path = tmp_path / "deit_tiny_patch16_224-a1311bcf.pth"
    torch.save({"model": TENSORS}, path)

    assert "its SHA-256 begins with" in refusal(path)


def test_a_digest_given_is_checked(path):
    torch.save(TENSORS, path, _use_new_zipfile_serialization=False)
    digest = read_file(path).sha256
    assert digest

    same(read_file(path, digest[:12].upper()).tensors)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    assert f"not {digest[:12]}" in refusal(path, sha256=digest[:12])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>404", "is a web page"),
        (b"<html><head>", "is a web page"),
        (b"", "no PyTorch, safetensors or NumPy file"),
        (b"PAR1....", "no PyTorch, safetensors or NumPy file"),
    ],
)
def test_what_is_no_weights_is_named(path, content, said):
    path.write_bytes(content)

    assert said in refusal(path)


def test_a_file_without_tensors_is_refused(path):
    torch.save({"epoch": 3, "meta": {}}, path)

    assert "holds no named tensors" in refusal(path)


def test_a_program_is_refused(path):
    torch.jit.script(torch.nn.ReLU()).save(path)

    assert "TorchScript program" in refusal(path)


def test_numpy_archives(tmp_path):
    np.savez(tmp_path / "flax.npz", **{"Transformer/a/kernel": np.arange(6.0).reshape(2, 3), "b": np.ones(2)})

    tensors = read_file(tmp_path / "flax.npz").tensors

    same(tensors, {"Transformer/a/kernel": torch.arange(6.0).double().view(2, 3), "b": torch.ones(2).double()})


def test_a_pickle_in_a_numpy_archive_is_refused(tmp_path):
    marker = tmp_path / "was_run"
    np.savez(tmp_path / "flax.npz", a=np.ones(2), b=np.array([Malicious(marker)], dtype=object))

    assert "does not hold plain numbers" in refusal(tmp_path / "flax.npz")
    assert not marker.exists()


def test_a_flipped_byte_in_a_numpy_archive_is_found(tmp_path):
    np.savez(tmp_path / "flax.npz", a=np.arange(4096.0))
    content = bytearray((tmp_path / "flax.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "flax.npz").write_bytes(content)

    assert "is damaged" in refusal(tmp_path / "flax.npz")


def test_a_folder_of_something_else_is_refused(tmp_path):
    assert "without DeepSpeed's" in refusal(tmp_path)


def test_what_is_not_there_is_answered_with_where_to_put_it(tmp_path):
    text = refusal(tmp_path / "nothing.pth")

    assert "pretrained" in text
    assert "deit_3_small_224_21k.pth" in text


@pytest.mark.parametrize(
    ("wrapper", "beside"), [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("state_dict", "teacher")]
)
def test_weights_beside_those_that_are_taken_are_noted(path, wrapper, beside):
    average = {name: value + 1 for name, value in TENSORS.items()}
    torch.save({beside: average, wrapper: TENSORS, "optimizer": {"state": {}, "param_groups": []}, "epoch": 3}, path)

    weights = read_file(path)

    same(weights.tensors)
    assert weights.notes == [f"2 tensors under '{beside}' are passed over: weights are taken from '{wrapper}'"]

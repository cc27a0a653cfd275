"""Detectron's `.pkl` files: blobs to our tensors, what nothing reads, and what is refused."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron import FAMILIES, manifest

from piip.counting.meta import on_meta
from piip.models import build_backbone, build_model
from piip.models.backbones.resnet import load_pretraining
from piip.spec import ClassifierSpec, KeypointRCNNSpec, ModelSpec, ResNetSpec
from piip.weights.names.detectron import blob_of, why_unused
from piip.weights.names.mmdet import fit_weights
from piip.weights.read import Weights, WeightsError, read_file

TINY = ResNetSpec(resolution=64, channels=8, depths=(1, 1, 1, 1))


def written(path: Path, document) -> Path:
    path.write_bytes(pickle.dumps(document, protocol=2))
    return path


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_has_its_blob_and_every_orphan_a_reason(family):
    spec, wanted = FAMILIES[family], manifest(family)
    with on_meta():
        state = build_model(spec, pretrained=False).state_dict()

    ours = {blob_of(name, spec.backbone, spec.head): list(tensor.shape) for name, tensor in state.items()}

    blobs = {blob: shape for shape, blob in wanted["mapping"].values() if blob}
    assert ours == blobs
    assert len(ours) == len(state)
    assert [blob for blob in wanted["orphans"] if why_unused(blob) is None] == []
    assert [blob for blob in blobs if why_unused(blob)] == []


@pytest.mark.parametrize("family", ["mask_R50_FPN", "kps_R50_FPN"])
def test_a_detectors_pkl_is_read_whole(tmp_path, family):
    spec, wanted = FAMILIES[family], manifest(family)
    rows = {blob: shape for shape, blob in wanted["mapping"].values() if blob}
    # one number a blob, whose shape is put back on the meta device: the file is small
    small = {blob: np.full([1] * len(shape), 0.5, np.float32) for blob, shape in rows.items()}
    small["conv1_w"] = np.arange(3, dtype=np.float32).reshape(1, 3, 1, 1)
    small |= {blob: np.zeros(1, np.float32) for blob in wanted["orphans"]} | {"fc6_w_momentum": np.zeros(1, np.float32)}
    read = read_file(written(tmp_path / "model_final.pkl", {"blobs": small, "cfg": "MODEL: {}\n"}))
    whole = {blob: torch.empty(rows.get(blob, [1]), device="meta") for blob in read.tensors}
    whole["conv1_w"] = read.tensors["conv1_w"].expand(64, 3, 7, 7)
    with on_meta():
        model = build_model(spec, pretrained=False)

    state, report = fit_weights(Weights(whole, read.origin), model, spec)

    assert report.missing == []
    assert report.unexplained == {}
    assert set(report.ignored) == {*wanted["orphans"], "fc6_w_momentum"}
    assert set(state) == set(model.state_dict())
    assert state["backbone.conv1.weight"][0, :, 0, 0].tolist() == [2, 1, 0]  # blue comes first in the file


def test_a_backbone_starts_from_imagenets_pkl(tmp_path):
    given = build_backbone(TINY)
    torch.nn.init.normal_(given.levels["res4"][0].bn1.weight)
    file = {blob_of(f"backbone.{name}", TINY): tensor.numpy() for name, tensor in given.state_dict().items()}
    file["conv1_w"] = file["conv1_w"][:, ::-1]
    path = written(tmp_path / "R-14.pkl", file | {"fc1000_w": np.zeros((5, 8), np.float32), "conv1_b": np.zeros(8)})

    found = build_backbone(TINY.override({"weights": str(path)}))
    load_pretraining(
        part := torch.nn.Sequential(*given.levels["res5"]), TINY.override({"weights": str(path)}), prefix="levels.res5."
    )

    for name, tensor in given.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], tensor, rtol=0, atol=0)
    assert len(part) == 1
    with pytest.raises(WeightsError, match=r"Missing: levels\.res4\.1\.conv1\.weight"):
        build_backbone(TINY.override({"weights": str(path), "depths": (1, 1, 2, 1)}))
    with pytest.raises(WeightsError, match="no conv1_w: the pretraining of a ResNet here is Detectron's"):
        build_backbone(TINY.override({"weights": str(written(tmp_path / "other.pkl", {"w": np.zeros(2)}))}))


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("run",)


def test_nothing_of_a_pickle_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path / "model.pkl", {"blobs": {"conv1_w": np.zeros(3, np.float32), "x": Malicious()}})

    with pytest.raises(
        WeightsError, match=r"asks for (posix|nt|os)\.mkdir, which is no part of an array\. Nothing of it was run"
    ):
        read_file(path)

    assert not Path("run").exists()
    written(path, {"conv1_w": np.array([Malicious], dtype=object)})
    with pytest.raises(WeightsError, match="refused: its pickle asks for"):
        read_file(path)
    written(path, {"conv1_w": np.array(["text", None], dtype=object)})
    with pytest.raises(WeightsError, match="one of its arrays holds 'O8', not plain numbers"):
        read_file(path)


@pytest.mark.parametrize(
    "numbers", [np.arange(6.0).reshape(2, 3).T, np.arange(3, dtype=">f4"), np.array([True, False])]
)
def test_arrays_come_out_as_they_went_in(tmp_path, numbers):
    path = written(tmp_path / "a.pkl", {"w": numbers, "lr": np.float32(0.5), "names": ["a", ("b", 1)]})

    found = read_file(path).tensors["w"]

    assert found.tolist() == numbers.tolist()


def test_a_wrong_file_explains_itself(tmp_path):
    with pytest.raises(WeightsError, match=r"holds no named tensors, .*; it is a dict \['all_boxes'\]"):
        read_file(written(tmp_path / "detections.pkl", {"all_boxes": []}))
    path = tmp_path / "cut.pkl"
    path.write_bytes(pickle.dumps({"conv1_w": np.zeros(99)}, protocol=2)[:-60])
    with pytest.raises(WeightsError, match="is no pickle of arrays, or damaged or cut short"):
        read_file(path)

    def fitted(spec, **tensors):
        with on_meta():
            model = build_model(spec, pretrained=False)
        weights = Weights({"conv1_w": torch.zeros(8, 3, 7, 7)} | tensors, "a.pkl")
        return fit_weights(weights, model, spec)[1]

    keypoints = ModelSpec(backbone=TINY, head=KeypointRCNNSpec(fpn_channels=8, box_channels=8, keypoint_convs=1))
    with pytest.raises(WeightsError, match=r"network of ImageNet's, which is given as model\.backbone\.weights"):
        fitted(keypoints).require()
    report = fitted(keypoints, cls_score_w=torch.zeros(81, 8))
    assert "a detector of 80 classes" in report.summary
    assert report.unexplained["cls_score_w"] == "(81, 8) in the file, (2, 8) here"
    with pytest.raises(ValueError, match="under Faster, Mask or Keypoint R-CNN; this is classifier on resnet"):
        fitted(ModelSpec(backbone=TINY, head=ClassifierSpec(reads="map")))

"""A classifier from class folders to piip.eval and piip.predict: trained, or converted from an official file."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
from PIL import Image

from piip import convert, presets, sync
from piip import eval as eval_verb
from piip import predict as predict_verb
from piip.catalogue.rows import all_rows
from piip.evaluation import pictures
from piip.evaluation.rebuild import rebuild
from piip.models import build_model
from piip.ops.compiled import cpu
from piip.spec import CNNSpec, ExperimentSpec
from piip.sweeps.plan import plan_trials
from piip.sweeps.resources import Resources
from piip.tracking.store import Store
from piip.training import run as training
from piip.training.start import start_from
from piip.weights.names.mmdet import official_name

pytestmark = pytest.mark.slow
PIIP_ROW = presets.classifier_pico(presets.pico("TB", (64, 32), pretrained=False), steps=4)
CNN_ROW = presets.classifier_pico(CNNSpec(arch="resnet18", resolution=32), steps=4)
SMALL = {"train.batch_size": 4, "train.engine": "ddp", "train.log_every": 1, "speed.kernel": "reference",
         "data.mixup": 0.8, "data.cutmix": 1.0, "data.rand_augment": "rand-m9-mstd0.5-inc1"}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("classification")
    for split, count in (("train", 3), ("val", 2)):
        for label in range(12):
            folder = root / "data/demo/imagenet" / split / f"class{label:02d}"
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (40 + number, 36), (20 * label, 128, 255 - 20 * label)).save(folder / f"{number}.jpg")
    return root


@pytest.fixture(autouse=True)
def in_that_home(home, monkeypatch):
    monkeypatch.setenv("PIIP_HOME", str(home))
    for name in ("PIIP_DATA", "PIIP_STORAGE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cpu, "load", lambda: False)


def trained(spec: ExperimentSpec) -> str:
    """A row through plan, training, pictures, journal and MLflow: the run's id."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
            patch.setenv(name, value)
        _, (planned,) = plan_trials([spec.override(SMALL)], experiment="tests", resources=Resources())
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        try:
            training.run(planned.trial, rank=0, world_size=1, report=lambda _: None)
        finally:
            dist.destroy_process_group()
    pictures.keep(planned.trial)
    assert sync.main() == 0
    (run,) = [r for r in Store().find_runs("tests") if r.tags.get("piip.trial_key") == planned.trial.key]
    return run.run_id


def said(capsys, verb, *arguments):
    capsys.readouterr()
    code = verb([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return json.loads(printed.out)


@pytest.mark.parametrize("row", [PIIP_ROW, CNN_ROW], ids=lambda row: row.model.backbone.kind)
def test_a_trained_classifier_is_scored_again_to_the_same_numbers(row, capsys, home, tmp_path):
    run_id = trained(row)

    again = said(capsys, eval_verb.cli, "--run-id", run_id, "--json")

    assert again["metrics"].keys() == {"imagenet/top1", "imagenet/top5"}
    assert again["metrics"] == pytest.approx(again["logged_before"], abs=1e-6)
    then = pq.read_table(Store().download(run_id, "predictions/val.parquet"))
    now = pq.read_table(Path(again["predictions"]) / "predictions.parquet")
    assert then.to_pylist() == now.to_pylist()
    images = sorted((home / "data/demo/imagenet/val").glob("*/*.jpg"))
    assert len(now) == 5 * len(images) == 5 * 24
    assert Image.open(Store().download(run_id, "predictions/val_0.png")).width > 500

    folder = home / "data/demo/imagenet/val"
    own = said(capsys, eval_verb.cli, "--run-id", run_id, "--split", "own", "--images", folder, "--json")
    assert own["metrics"] == {f"own/{name}": value for name, value in again["metrics"].items()}

    drawn = said(capsys, predict_verb.cli, images[0], "--run-id", run_id, "-o", tmp_path, "--json")

    alone = [entry["score"] for entry in drawn[str(images[0])]]
    name = images[0].relative_to(home / "data/demo/imagenet/val").as_posix()
    in_its_batch = [row["score"] for row in now.to_pylist() if row["file_name"] == name]
    assert alone == pytest.approx(in_its_batch, abs=1e-5)  # a batch sums in another order


def official(model, spec) -> dict[str, torch.Tensor]:
    return {official_name(name, spec): value for name, value in model.state_dict().items()}


@pytest.mark.parametrize("merge", [False, True])
def test_an_official_file_becomes_a_run_that_scores_and_is_fine_tuned(merge, capsys, home, tmp_path):
    settings = {"model.head.merge": merge, "speed.kernel": "reference"}
    row = next(row for name, row in all_rows().items() if name.startswith("classifier_piip_tb_"))
    spec = row.override(settings)
    torch.manual_seed(2)
    model = build_model(spec.model, pretrained=False).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gamma" in name:
                parameter.fill_(0.5)  # interactions that matter
    file = tmp_path / "released.pth"
    scalars = {n: v.reshape(()) if n in ("w1", "w2") else v for n, v in official(model, spec.model).items()}
    torch.save({"model": scalars, "epoch": 19, "scaler": {}}, file)

    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    made = said(capsys, convert.cli, file, "--row", spec.name, *sets, "--json")
    scored = said(capsys, eval_verb.cli, "--run-id", made["run_id"], "--json")

    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for ours, theirs in zip(rebuild(Store(), made["run_id"]).model(images), model(images), strict=True):
            torch.testing.assert_close(ours["logits"], theirs["logits"])
    assert 0 <= scored["metrics"]["imagenet/top1"] <= scored["metrics"]["imagenet/top5"] <= 1

    other = spec.override({"model.weights": str(file), "model.weights_partial": True, "model.head.num_classes": 3})
    fresh = build_model(other.model, pretrained=False)
    report = start_from(fresh, other.model, ["a", "b", "c"])
    assert report is not None
    heads = {f"branch{k}.head" for k in (1, 2)} if not merge else {"cls_head"}
    assert {name.rpartition(".")[0] for name in report.resized} | {
        official_name(name, other.model).rpartition(".")[0] for name in report.missing
    } == heads

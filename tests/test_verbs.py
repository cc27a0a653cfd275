"""The verbs as a person types them, over a run trained without Ray. Bad input is one line and a non-zero exit."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
from PIL import Image

from piip import __main__ as all_verbs
from piip import convert, predict, presets, report, rows, sync, train
from piip import cost as cost_verb
from piip import eval as eval_verb
from piip.data import check, demo
from piip.data.demo import Recipe, make_demo
from piip.ops import build
from piip.spec import ExperimentSpec
from piip.sweeps import cli as experiment
from piip.sweeps.plan import plan_trials
from piip.sweeps.resources import Resources
from piip.tracking.store import Store
from piip.training import run as training
from piip.training.trial import Trial

ROOT = Path(__file__).parent.parent
STEPS = 4


def spec_to_train() -> ExperimentSpec:
    """The smallest real PIIP Mask R-CNN; it reports whatever it sees, so that there is something to compare."""
    row = presets.mask_rcnn_pico(presets.pico("TB", (128, 64), pretrained=False), steps=STEPS)
    small = {
        "train.batch_size": 2,
        "train.log_every": 1,
        "train.save_every": 2,
        "train.engine": "ddp",
        "optim.warmup_steps": 2,
    }
    head = {"rpn_pre_nms": 100, "rpn_post_nms": 30, "score_threshold": 0.0, "max_detections": 20}
    return row.override(
        small | {f"model.head.{k}": v for k, v in head.items()} | {"model.backbone.interaction.kernel": "reference"}
    )


@dataclass
class Trained:
    """A finished run in an MLflow of its own."""

    home: Path
    run_id: str
    trial: Trial

    @property
    def checkpoints(self) -> Path:
        return self.home / "storage" / self.trial.key

    @property
    def demo(self) -> Path:
        return self.home / "data" / "demo"


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory) -> Trained:
    """One row through plan, training, journal and MLflow; no Ray."""
    root = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"PIIP_HOME": str(root), "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
            patch.setenv(name, value)
        for name in ("PIIP_DATA", "PIIP_STORAGE", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        torch.set_num_threads(1)
        make_demo(root / "data" / "demo", Recipe(train=6, val=3, sides=(96, 128), objects=(24, 76)))
        _, (planned,) = plan_trials([spec_to_train()], experiment="tests", resources=Resources())
        ours = not dist.is_initialized()
        if ours:
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        training.run(planned.trial, rank=0, world_size=1, report=lambda _: None)
        if ours:
            dist.destroy_process_group()
        assert sync.main() == 0
        (run,) = [r for r in Store().find_runs("tests") if r.tags.get("piip.trial_key") == planned.trial.key]
    return Trained(root, run.run_id, planned.trial)


@pytest.fixture
def trained(trained_once, monkeypatch) -> Trained:
    """The run, in this test's PIIP_HOME."""
    monkeypatch.setenv("PIIP_HOME", str(trained_once.home))
    return trained_once


@pytest.fixture(autouse=True)
def nothing_is_made_twice(monkeypatch) -> None:
    """The row asks for the reference kernel, so none is compiled; its demo data stay the few images they are."""
    monkeypatch.setattr(build, "load", lambda: False)
    monkeypatch.setattr(demo, "ensure_demo", lambda root: root)


@dataclass
class Said:
    """What a verb printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def document(self):
        """The one JSON document on stdout."""
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line, of a verb that failed."""
        errors = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert self.code not in (0, None)
        assert len(errors) == 1
        assert "Traceback" not in self.err
        assert self.out == ""
        return errors[0]


@pytest.fixture
def say(capsys) -> Callable[..., Said]:
    """`say(verb, *arguments)`: the verb in this process."""

    def run(verb: Callable, *arguments: object) -> Said:
        capsys.readouterr()
        try:
            code = verb([str(argument) for argument in arguments])
        except SystemExit as stopped:
            code = stopped.code
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return run


def sweep(arguments):
    """`python experiments/sweep_resolutions.py`, with one small row."""
    table = {"pico": [spec_to_train()], "coco": [presets.mask_rcnn_1x(presets.piip("TSB", (1120, 896, 448)))]}
    experiment.main(table, experiment="tests", description="", arguments=arguments)


def with_arguments(main: Callable[[], object]) -> Callable[[list[str]], object]:
    """A verb that reads sys.argv."""

    def run(arguments: list[str]) -> object:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["verb", *arguments])
            return main()

    return run


def sweep_file(arguments):
    """The real file."""
    from importlib.util import module_from_spec, spec_from_file_location

    found = spec_from_file_location("sweep_resolutions", ROOT / "experiments" / "sweep_resolutions.py")
    assert found
    assert found.loader
    module = module_from_spec(found)
    found.loader.exec_module(module)
    experiment.main(module.ROWS, experiment="x", description=module.__doc__, arguments=arguments)


HELP = {
    "piip.train": train.cli,
    "piip.eval": eval_verb.cli,
    "piip.predict": predict.cli,
    "piip.convert": convert.cli,
    "piip.report": report.main,
    "piip.rows": rows.cli,
    "piip.cost": cost_verb.cli,
    "piip.sync": sync.cli,
    "piip.ops.build": build.main,
    "piip.data.demo": with_arguments(demo.main),
    "piip.data.check": with_arguments(check.main),
    "experiments/sweep_resolutions.py": sweep_file,
}


HEAVY = ["ray", "mlflow", "deepspeed", "matplotlib", "pyarrow"]


def imported_by(*typed: list[str], among: list[str]) -> dict[str, list[str]]:
    """Which of the modules `among` each command line imports that imports any, all in one fresh process."""
    script = """
import contextlib, json, os, runpy, sys
typed, among = json.loads(sys.argv[1])
found = {}
for sys.argv in typed:
    run = runpy.run_path if sys.argv[0].endswith(".py") else runpy.run_module
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(open(os.devnull, "w")):
        run(sys.argv[0], run_name="__main__")
    found[" ".join(sys.argv)] = [name for name in among if name in sys.modules]
print(json.dumps({line: names for line, names in found.items() if names}))
"""
    command = [sys.executable, "-W", "ignore", "-c", script, json.dumps([typed, among])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


class TestListOfVerbs:
    def test_it_names_every_module_that_runs(self, say):
        said = say(all_verbs.cli)
        runnable = {
            ".".join(file.relative_to(ROOT / "piip").with_suffix("").parts)
            for file in (ROOT / "piip").rglob("*.py")
            if 'if __name__ == "__main__":' in file.read_text() and file.name != "__main__.py"
        }

        assert set(re.findall(r"python -m piip\.(\S+)  +[A-Z]\w+ ", said.out)) == runnable
        assert say(all_verbs.cli, "--help").out == said.out
        assert said.code == 0

    def test_a_verb_without_its_dot_is_told_so(self, say):
        assert "python -m piip.eval" in say(all_verbs.cli, "eval", "--run-id", "x").error


class TestHelp:
    @pytest.mark.parametrize("name", HELP)
    def test_help_shows_an_example(self, say, name):
        said = say(HELP[name], "--help")

        assert said.code == 0
        assert re.search(rf"^ *(\w+=\S+ )?python (-m )?{re.escape(name)}", said.out, re.MULTILINE), said.out
        assert said.err == ""

    def test_the_rows_it_names_exist(self, say):
        said = say(train.cli, "--help")

        named = set(re.findall(r"piip\.train (mask_\w+)", said.out))
        assert named
        assert named <= set(rows.all_rows())

    def test_neither_help_nor_a_mistake_waits_for_anything_heavy(self, piip_home):
        typed = [[name, "--help"] for name in HELP] + [
            ["piip.rows", "--names"],
            ["piip.train", "mask_rcnn_no_such_row"],
            ["piip.data.check", "nothere.json", "nothere"],
            ["experiments/sweep_resolutions.py", "--scale", "pico", "--workers", "3"],
            ["experiments/sweep_resolutions.py", "--scale", "coco"],
        ]

        assert imported_by(*typed, among=["torch", *HEAVY]) == {}

    @pytest.mark.slow
    def test_a_list_of_rows_builds_networks_and_starts_nothing(self):
        line = ["experiments/sweep_resolutions.py", "--scale", "pico", "--list", "mask_rcnn_vit_b_192_pico84"]

        assert imported_by(line, among=["torch", *HEAVY]) == {" ".join(line): ["torch"]}

    @pytest.mark.slow
    @pytest.mark.parametrize("name", HELP)
    def test_help_from_a_shell(self, name):
        target = [str(ROOT / name)] if name.endswith(".py") else ["-m", name]

        done = subprocess.run(
            [sys.executable, *target, "--help"], cwd=ROOT, capture_output=True, text=True, check=False
        )

        assert done.returncode == 0
        assert name in done.stdout


def unread(*line: str) -> tuple[int, str]:
    """Exit code and stderr of a command whose output has no reader any more, as `| head` leaves it."""
    reader, writer = os.pipe()
    os.close(reader)
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    try:
        done = subprocess.run(
            [sys.executable, *line], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, env=buffered, check=False
        )  # fmt: skip
    finally:
        os.close(writer)
    return done.returncode, done.stderr


class TestNobodyReads:
    @pytest.mark.parametrize("name", HELP)
    def test_help_ends_in_silence(self, name):
        target = [str(ROOT / name)] if name.endswith(".py") else ["-m", name]

        assert unread(*target, "--help") == (128 + signal.SIGPIPE, "")

    @pytest.mark.parametrize("line", [["piip"], ["piip.rows", "--names"]])
    def test_so_does_a_list(self, line):
        assert unread("-m", *line) == (128 + signal.SIGPIPE, "")

    def test_so_does_a_table(self):
        script = (
            "import sys; from rich import print; from piip.console import guarded; sys.exit(guarded(lambda: print(1)))"
        )

        assert unread("-c", script) == (128 + signal.SIGPIPE, "")

    def test_another_broken_pipe_is_an_error(self):
        script = "import sys; from piip.console import guarded\ndef verb(): raise BrokenPipeError('to MLflow')\nguarded(verb)"

        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)

        assert done.stderr == "error: to MLflow\n"


class TestEval:
    def test_the_figures_equal_those_logged_in_training(self, trained, say):
        said = say(eval_verb.cli, "--run-id", trained.run_id, "--json")

        assert said.code == 0, said.err
        document = said.document
        assert document["step"] == STEPS
        assert document["metrics"].keys() >= {"coco/box_ap", "coco/mask_ap"}
        assert document["metrics"] == pytest.approx(document["logged_before"], abs=1e-6)
        # AP of a network trained for four steps says little: every single prediction is the training's, too
        then = json.loads(Store().download(trained.run_id, "predictions/val.json").read_text())
        now = json.loads((Path(document["predictions"]) / "predictions.json").read_text())
        assert len(now) > 10
        assert now == then

    def test_predictions_are_there_twice_and_with_the_run(self, trained, say, tmp_path):
        (tmp_path / "mine.txt").write_text("not to be uploaded")
        assert say(eval_verb.cli, "--run-id", trained.run_id, "--out", tmp_path, "--json").code == 0

        as_json = json.loads((tmp_path / "predictions.json").read_text())
        as_rows = pq.read_table(tmp_path / "predictions.parquet").to_pylist()
        assert [r["bbox"] for r in as_rows] == [r["bbox"] for r in as_json]
        assert [r["mask_rle"] for r in as_rows] == [r["segmentation"]["counts"] for r in as_json]
        uploaded = Store().download(trained.run_id, "eval/val")
        assert sorted(f.name for f in uploaded.iterdir()) == ["predictions.json", "predictions.parquet"]

    def test_a_second_time_logs_nothing_twice(self, trained, say):
        for _ in range(2):
            assert say(eval_verb.cli, "--run-id", trained.run_id, "--json").code == 0

        assert [step for step, *_ in Store().history(trained.run_id, "coco/box_ap")] == [STEPS]

    def test_another_split_gets_its_name_in_front(self, trained, say):
        files = ("--annotations", trained.demo / "annotations/instances_train.json", "--images", trained.demo / "train")

        said = say(
            eval_verb.cli, "--run-id", trained.run_id, "--split", "test", *files, "--checkpoint", "best", "--json"
        )

        assert said.document["logged_before"]["test/coco/box_ap"] is None
        history = Store().history(trained.run_id, "test/coco/box_ap")
        assert [value for _, value, _ in history] == [said.document["metrics"]["test/coco/box_ap"]]

    def test_people_get_a_table(self, trained, say):
        said = say(eval_verb.cli, "--run-id", trained.run_id, "--max-images", "1")

        assert "coco/mask_ap" in said.out
        assert "logged before" in said.out

    def test_an_unknown_run_is_answered_with_the_latest(self, trained, say):
        assert f"Latest: {trained.run_id[:8]} (mask_rcnn" in say(eval_verb.cli, "--run-id", "546c546c").error

    def test_the_first_characters_of_an_id_are_enough(self, trained, say):
        said = say(eval_verb.cli, "--run-id", trained.run_id[:8], "--max-images", "1", "--json")

        assert said.document["run_id"] == trained.run_id

    def test_a_sweeps_parent_is_no_trial(self, trained, say):
        (parent,) = [r for r in Store().find_runs("tests") if r.run_id != trained.run_id]

        assert "a sweep's parent run" in say(eval_verb.cli, "--run-id", parent.run_id).error

    @pytest.mark.parametrize(
        ("flags", "said"),
        [
            (["--annotations", "a.json"], "--annotations and --images go together"),
            (["--images", "folder"], "--annotations and --images go together"),
            (["--annotations", "a.json", "--images", "folder"], "need a --split name of their own"),
            (["--split", "test", "--annotations", "a.json", "--images", "folder"], "test data not found: a.json"),
            (["--split", "nowhere"], "instances_nowhere.json"),
        ],
    )
    def test_data_given_by_halves_is_refused(self, trained, say, flags, said):
        assert said in say(eval_verb.cli, "--run-id", trained.run_id, *flags).error

    def test_other_classes_are_refused(self, trained, say, tiny_coco):
        flags = ("--split", "test", "--annotations", tiny_coco.annotations, "--images", tiny_coco.images)

        error = say(eval_verb.cli, "--run-id", trained.run_id, *flags).error

        assert "has 3 categories, the run was trained on 12; first difference: {'id': 2, 'name': 'cat'}" in error


@pytest.fixture
def copied(trained, tmp_path) -> tuple[Path, Path]:
    """A copy of the demo's validation split, to be damaged: annotation file and image folder."""
    annotations, images = tmp_path / "val.json", tmp_path / "val"
    shutil.copy(trained.demo / "annotations/instances_val.json", annotations)
    shutil.copytree(trained.demo / "val", images)
    return annotations, images


def truncate_json(annotations: Path, images: Path) -> str:
    annotations.write_bytes(annotations.read_bytes()[:1000])
    return f"{annotations}: not complete JSON"


def orphan_an_annotation(annotations: Path, images: Path) -> str:
    document = json.loads(annotations.read_text())
    document["annotations"][0]["image_id"] = 999
    annotations.write_text(json.dumps(document))
    return f"annotation {document['annotations'][0]['id']} is for image 999, which is not in images"


def break_a_jpeg(annotations: Path, images: Path) -> str:
    broken = sorted(images.glob("*.jpg"))[1]
    broken.write_bytes(broken.read_bytes()[:700])
    return f"{broken}: cannot be decoded"


def remove_an_image(annotations: Path, images: Path) -> str:
    gone = sorted(images.glob("*.jpg"))[1]
    gone.unlink()
    return f"1 of 3 images not found in {images}, first {gone.name!r}"


DAMAGES = [truncate_json, orphan_an_annotation, break_a_jpeg, remove_an_image]


class TestDamagedData:
    @pytest.mark.parametrize("damage", DAMAGES)
    def test_eval_names_the_file(self, trained, say, copied, damage):
        said = damage(*copied)
        flags = ("--split", "test", "--annotations", copied[0], "--images", copied[1])

        assert said in say(eval_verb.cli, "--run-id", trained.run_id, *flags).error

    @pytest.mark.parametrize("damage", [truncate_json, orphan_an_annotation, remove_an_image])
    def test_a_sweep_refuses_before_it_starts_anything(self, trained, say, copied, damage):
        said = damage(*copied)
        good = (
            "--train-annotations",
            trained.demo / "annotations/instances_train.json",
            "--train-images",
            trained.demo / "train",
        )

        error = say(sweep, "--scale", "pico", *good, "--val-annotations", copied[0], "--val-images", copied[1]).error

        assert said in error


class TestDamagedCheckpoint:
    @pytest.fixture
    def flipped(self, trained) -> Iterator[Path]:
        """One byte in the middle of the last checkpoint's weights."""
        path = trained.checkpoints / f"step_{STEPS:08d}" / "model.safetensors"
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[len(whole) // 2] ^= 1
        path.write_bytes(damaged)
        yield path
        path.write_bytes(whole)

    def test_eval_walks_back_and_says_so(self, trained, say, flipped):
        said = say(eval_verb.cli, "--run-id", trained.run_id, "--max-images", "1", "--json")

        assert said.code == 0
        assert said.document["step"] == 2
        assert f"{flipped} is damaged: its SHA-256 is not the manifest's" in said.err
        assert "Falling back to the checkpoint before it." in said.err

    def test_the_best_has_none_before_it(self, trained, say, flipped):
        assert "is damaged" in say(eval_verb.cli, "--run-id", trained.run_id, "--checkpoint", "best").error

    def test_without_any_good_one_there_is_nothing_to_score(self, trained, say, flipped, tmp_path):
        shutil.move(trained.checkpoints / "step_00000002", tmp_path)
        try:
            assert "no good checkpoint left" in say(eval_verb.cli, "--run-id", trained.run_id).error
        finally:
            shutil.move(tmp_path / "step_00000002", trained.checkpoints)


class TestPredict:
    @pytest.fixture
    def photo(self, trained) -> Path:
        return sorted((trained.demo / "val").glob("*.jpg"))[0]

    def test_pictures_and_results_go_to_the_folder(self, trained, say, photo, tmp_path):
        said = say(predict.cli, photo, "--run-id", trained.run_id, "-o", tmp_path / "drawn", "--json")

        assert said.code == 0, said.err
        assert list(said.document) == [str(photo)]
        assert json.loads((tmp_path / "drawn" / "predictions.json").read_text()) == said.document
        # the same network on the same image: what the evaluation in training predicted
        image_id = next(
            i["id"]
            for i in json.loads((trained.demo / "annotations/instances_val.json").read_text())["images"]
            if i["file_name"] == photo.name
        )
        then = json.loads(Store().download(trained.run_id, "predictions/val.json").read_text())
        assert said.document[str(photo)] == [r | {"image_id": 0} for r in then if r["image_id"] == image_id]
        with Image.open(tmp_path / "drawn" / f"001_{photo.stem}.png") as drawn, Image.open(photo) as original:
            assert drawn.width % original.width == 0  # small images are enlarged by a whole factor

    def test_a_rotated_photograph_has_its_boxes_in_the_upright_picture(self, trained, say, photo, tmp_path):
        upright, turned = tmp_path / "upright.png", tmp_path / "turned.png"
        with Image.open(photo) as image:
            image.crop((0, 0, 96, 72)).save(upright)
            rotated = image.crop((0, 0, 96, 72)).transpose(Image.Transpose.ROTATE_90)
        exif = Image.Exif()
        exif[0x0112] = 6  # "turn me 90 degrees clockwise"
        rotated.save(turned, exif=exif)

        said = say(predict.cli, upright, turned, "--run-id", trained.run_id, "-o", tmp_path / "drawn", "--json")

        assert said.document[str(turned)] == said.document[str(upright)]
        drawn = [np.asarray(Image.open(tmp_path / "drawn" / name)) for name in ("001_upright.png", "002_turned.png")]
        np.testing.assert_array_equal(*drawn)

    def test_grey_and_cmyk_files_are_images_too(self, trained, say, photo, tmp_path):
        with Image.open(photo) as image:
            image.convert("L").save(tmp_path / "grey.png")
            image.convert("CMYK").save(tmp_path / "cmyk.jpg")

        files = (tmp_path / "grey.png", tmp_path / "cmyk.jpg")
        assert say(predict.cli, *files, "--run-id", trained.run_id, "-o", tmp_path / "drawn").code == 0

    def test_a_missing_image_is_named_before_anything_is_loaded(self, say, tmp_path):
        error = say(predict.cli, "nothere.jpg", "--run-id", "any", "-o", tmp_path).error

        assert error == "error: no such image: nothere.jpg"

    def test_no_images_at_all(self, say, tmp_path):
        assert "no images given" in say(predict.cli, "--run-id", "any", "-o", tmp_path).error

    def test_a_text_file_is_no_image(self, trained, say, tmp_path):
        text = tmp_path / "text.jpg"
        text.write_text("hello")

        assert (
            f"{text}: not an image (5 bytes)"
            in say(predict.cli, text, "--run-id", trained.run_id, "-o", tmp_path).error
        )


class TestExperiment:
    @pytest.mark.parametrize(
        ("flags", "said"),
        [
            (["--set", "optim.learn=1"], "no field 'optim.learn' in ExperimentSpec. Nearest: 'optim.lr'"),
            (["--set", "optim.lr"], "--set takes NAME=VALUE, got 'optim.lr'"),
            (["--set", "optim.lr=high"], "optim.lr: Input should be a valid number"),
            (["--set", "model.backbone.branches.1.resolution=8"], "greater than or equal to 32 (got 8)"),
            (["--set", "model.backbone.branches.1.resolution=256"], "branches go from high to low resolution"),
            (["--set", "model.backbone.branches.0.arch=pico_tyny"], "no network 'pico_tyny'"),
            (["mask_rcnn_piip_tb_128"], "Nearest: 'mask_rcnn_piip_tb_scratch_128_64_pico4'"),
            (["--train-annotations", "a.json"], "missing: --train-images, --val-annotations, --val-images"),
            (["--scale", "coco"], "data/coco/annotations/instances_train2017.json. Set PIIP_DATA"),
            (["--workers", "3"], "batch_size 2 does not divide by 3 workers"),
            (["--max-gflops", "0.001"], "more than --max-gflops 0.001"),
        ],
    )
    def test_bad_input_is_one_line(self, trained, say, flags, said):
        scale = [] if "--scale" in flags else ["--scale", "pico"]

        assert said in say(sweep, *flags, *scale).error

    def test_list_is_one_json_document(self, say):
        said = say(sweep, "--scale", "pico", "--list", "--json")

        assert said.code == 0
        assert [row["name"] for row in said.document] == ["mask_rcnn_piip_tb_scratch_128_64_pico4"]
        assert said.document[0]["gflops"] > 0

    @pytest.mark.parametrize("row", ["mask_rcnn_piip_tsb_1120_896", "--json"])
    def test_train_wants_a_row(self, say, row):
        error = say(train.cli, row).error

        assert "python -m piip.rows" in error


class TestRows:
    def test_rows_are_one_json_document(self, say, monkeypatch):
        monkeypatch.setattr(rows, "all_rows", lambda: {"row": spec_to_train()})

        assert [row["name"] for row in say(rows.cli, "--json").document] == ["mask_rcnn_piip_tb_scratch_128_64_pico4"]

    @pytest.mark.long
    def test_every_row_is_listed_with_its_cost(self, say):
        document = say(rows.cli, "--json").document

        assert {row["name"] for row in document} == set(rows.all_rows())
        assert all(row["gflops"] > 0 and row["params_m"] > 0 for row in document)


class TestCost:
    TSB = "mask_rcnn_piip_tsb_1120_896_448_1x"

    @pytest.fixture
    def two_rows(self, monkeypatch) -> None:
        """The smallest network, and it again with a released name and printed figures."""
        paper = presets.PaperResult(box_ap=43.6, mask_ap=38.7, params_m=146, gflops=243, note="of another one")
        table = {
            "tiny": spec_to_train(),
            "printed": spec_to_train().override({"name": "printed", "paper": paper.model_dump()}),
        }
        monkeypatch.setattr(cost_verb, "all_rows", lambda: table)
        monkeypatch.setattr(cost_verb, "find_row", table.__getitem__)

    def test_a_row_part_by_part(self, say, two_rows):
        (document,) = say(cost_verb.cli, "tiny", "--json", "--workers", 2, "--set", "train.engine=deepspeed").document

        parts = document["parts"]
        assert list(parts) == ["branches.0", "branches.1", "interactions", "merge", "neck", "rpn", "roi_heads"]
        assert sum(part["gflops"] for part in parts.values()) == pytest.approx(document["gflops"])
        assert sum(part["params_m"] for part in parts.values()) == pytest.approx(document["params_m"])
        assert document["backbone"]["gflops"] < document["gflops"]
        assert document["published"] is None
        images = spec_to_train().train.batch_size // 2
        assert document["training"] == {"workers": 2, "images": images, "engine": "deepspeed", "zero_stage": 0}
        assert document["memory"]["weights_gb"] == pytest.approx(4e-3 * document["params_m"])

    def test_the_size_is_the_users(self, say, two_rows):
        (small,) = say(cost_verb.cli, "tiny", "--json", "--size", 64, 128).document
        # a table's rows: without the memory of a step, which takes seconds to predict
        (large,) = say(cost_verb.cli, "tiny", "--json", "--size", 128, 128, "--markdown").document

        assert small["size"] == [64, 128]
        assert large["gflops"] > 1.2 * small["gflops"]
        assert large["params_m"] == small["params_m"]
        assert "--size 16 128 is too small" in say(cost_verb.cli, "tiny", "--size", 16, 128).error

    def test_no_name_is_every_row_with_printed_figures(self, say, two_rows):
        shown = say(cost_verb.cli).out
        (line,) = [line for line in say(cost_verb.cli, "--markdown").out.splitlines() if line.startswith("| printed")]

        assert "43.6 / 38.7 AP" in shown
        assert "printed: of another one" in shown
        assert "tiny" not in shown
        assert line.split(" | ")[-2:] == ["146", "43.6 / 38.7 AP |"]

    def test_rows_are_found_by_pattern(self, say, two_rows):
        assert [row["name"] for row in say(cost_verb.cli, "t*", "--json").document] == [spec_to_train().name]
        assert "no row matches 'x*'. All rows: python -m piip.rows" in say(cost_verb.cli, "x*").error

    def test_a_published_row_has_both_columns(self, say):
        (document,) = say(cost_verb.cli, self.TSB, "--json", "--markdown").document

        assert document["published"]["gflops"] == pytest.approx(243, rel=3e-3)
        assert document["paper"]["gflops"] == 243
        assert document["backbone"]["params_m"] == pytest.approx(175.04, abs=0.01)


class TestMLflow:
    @pytest.fixture
    def nobody(self, monkeypatch) -> str:
        """The address of a server that is down."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"http://127.0.0.1:{probe.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        return address

    def test_eval_says_that_the_server_is_down(self, say, nobody):
        assert f"MLflow at {nobody}: connection refused" in say(eval_verb.cli, "--run-id", "any").error

    def test_predict_says_that_the_server_is_down(self, say, nobody, tiny_coco, tmp_path):
        image = sorted(tiny_coco.images.glob("*.jpg"))[0]

        assert "connection refused" in say(predict.cli, image, "--run-id", "any", "-o", tmp_path).error

    def test_report_says_that_the_server_is_down(self, say, nobody):
        assert "connection refused" in say(report.main, "--experiment", "tests").error

    def test_report_of_an_unknown_experiment_lists_those_there_are(self, trained, say):
        assert "no experiment 'test'" in say(report.main, "--experiment", "test").error
        assert "There are: tests" in say(report.main, "--experiment", "test").err

    def test_report_is_one_json_document(self, trained, say, tmp_path):
        said = say(report.main, "--experiment", "tests", "--out", tmp_path, "--json")

        assert said.code == 0, said.err
        assert [t["run_id"] for t in said.document["trials"]] == [trained.run_id]

    def test_sync_has_nothing_left(self, trained, say):
        said = say(sync.cli, "--json")

        assert said.code == 0
        assert {run["state"] for run in said.document["runs"]} == {"up to date"}

    def test_a_home_that_is_not_absolute_is_one_line(self, say, monkeypatch):
        monkeypatch.setenv("PIIP_HOME", "runs")

        for verb, arguments in (
            (sync.cli, []), (report.main, ["--experiment", "x"]), (eval_verb.cli, ["--run-id", "x"]), (sweep, ["--scale", "pico"])
        ):  # fmt: skip
            assert "PIIP_HOME must be absolute" in say(verb, *arguments).error


@pytest.mark.slow
def test_from_a_shell_stdout_is_the_document_alone(trained):
    command = [sys.executable, "-m", "piip.eval", "--run-id", trained.run_id, "--json"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)

    document = json.loads(done.stdout)
    assert document["metrics"] == pytest.approx(document["logged_before"], abs=1e-6)


@pytest.mark.slow
def test_from_a_shell_a_mistake_is_one_line(trained):
    command = [sys.executable, "-m", "piip.eval", "--run-id", "546c546c"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: no run '546c546c'")


@pytest.mark.slow
def test_a_broken_jpeg_is_refused_before_a_training_begins_or_is_skipped(trained, copied, say, piip_home, monkeypatch):
    monkeypatch.setenv("PIIP_HOME", str(piip_home))
    said = break_a_jpeg(*copied)
    files = [
        f"--{split}-{what}={path}"
        for split in ("train", "val")
        for what, path in zip(("annotations", "images"), copied, strict=True)
    ]

    def train(*flags):
        rows = {"pico": [spec_to_train()]}
        return say(
            lambda given: experiment.main(rows, experiment="jpeg", description="", arguments=given), *files, *flags
        )

    refused = train()
    assert refused.code == 1
    assert said in refused.error
    assert "--set data.broken_images=skip" in refused.error
    assert not (piip_home / "journals").exists()

    skipped = train("--set", "data.broken_images=skip", "--json")
    assert skipped.code == 0
    (run,) = [run for run in Store().find_runs("jpeg_pico") if "mlflow.parentRunId" in run.tags]
    assert run.status == "FINISHED"

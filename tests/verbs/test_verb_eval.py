"""piip.eval: figures, predictions, and what it says of damaged data and checkpoints."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pycocotools.coco import COCO
from verbing import DAMAGES, ROOT, STEPS, orphan_an_annotation, remove_an_image, sweep, truncate_json

from piip import eval as eval_verb
from piip.tracking.store import Store


class TestEval:
    def test_the_figures_equal_those_logged_in_training(self, trained, say):
        said = say(eval_verb.cli, "--run-id", trained.run_id, "--json")

        assert said.code == 0, said.err
        document = said.document
        assert document["step"] == STEPS
        assert document["metrics"].keys() >= {"coco/box_ap", "coco/mask_ap"}
        assert document["metrics"] == pytest.approx(document["logged_before"], abs=1e-6)
        # AP of a network trained for four steps says little: every single prediction is the training's, too
        then = pq.read_table(Store().download(trained.run_id, "predictions/val.parquet"))
        now = pq.read_table(Path(document["predictions"]) / "predictions.parquet")
        assert len(now) > 10
        assert now.drop_columns(["name"]).to_pylist() == then.to_pylist()
        names = {c["id"]: c["name"] for c in COCO(str(trained.demo / "annotations/instances_val.json")).cats.values()}
        assert now["name"].to_pylist() == [names[number] for number in now["category_id"].to_pylist()]
        of_classes = json.loads(Store().download(trained.run_id, "predictions/val_per_class.json").read_text())
        assert document["per_class"] == of_classes
        assert len(of_classes) == 12
        shown = say(eval_verb.cli, "--run-id", trained.run_id).out
        assert all(row["name"] in shown for row in of_classes)

    def test_predictions_are_there_twice_and_with_the_run(self, trained, say, tmp_path):
        (tmp_path / "mine.txt").write_text("not to be uploaded")
        assert say(eval_verb.cli, "--run-id", trained.run_id, "--out", tmp_path, "--json").code == 0

        as_json = json.loads((tmp_path / "predictions.json").read_text())
        as_rows = pq.read_table(tmp_path / "predictions.parquet").to_pylist()
        assert as_rows == as_json
        # which is COCO's own form, with a name more
        truth = COCO(str(trained.demo / "annotations/instances_val.json"))
        assert len(truth.loadRes(as_json).anns) == len(as_json)
        uploaded = Store().download(trained.run_id, "eval/val")
        assert sorted(f.name for f in uploaded.iterdir()) == [
            "per_class.json",
            "predictions.json",
            "predictions.parquet",
        ]

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

    def test_corrected_labels_get_a_name_of_their_own_and_the_first_ones_keep_theirs(self, trained, say, copied):
        flags = (
            "--run-id",
            trained.run_id,
            "--split",
            "relabelled",
            "--annotations",
            copied[0],
            "--images",
            copied[1],
            "--json",
        )
        first = say(eval_verb.cli, *flags)
        assert first.document["logged_as"] == "relabelled"
        text = copied[0].read_text()
        document = json.loads(text)
        for annotation in document["annotations"]:
            annotation["bbox"][2] *= 0.7
        copied[0].write_text(json.dumps(document))

        second = say(eval_verb.cli, *flags)

        name = second.document["logged_as"]
        assert re.fullmatch(r"relabelled-[0-9a-f]{8}", name)
        assert "the figures of 'relabelled' that are logged are of other data (digest" in second.err
        assert f"these are logged as {name}/.." in second.err
        for said, logged in ((first, "relabelled"), (second, name)):
            history = Store().history(trained.run_id, f"{logged}/coco/box_ap")
            assert [value for _, value, _ in history] == [said.document["metrics"][f"{logged}/coco/box_ap"]]
        assert first.document["predictions"] != second.document["predictions"]
        copied[0].write_text(text)  # the first data again, whose figures are there
        again = say(eval_verb.cli, *flags).document
        assert (again["logged_as"], again["logged_before"]) == ("relabelled", first.document["metrics"])

    def test_changed_validation_labels_do_not_pass_for_trainings(self, trained, say):
        annotations = trained.demo / "annotations/instances_val.json"
        text = annotations.read_text()
        annotations.write_text(text + " ")
        try:
            said = say(eval_verb.cli, "--run-id", trained.run_id, "--json")
        finally:
            annotations.write_text(text)

        assert re.fullmatch(r"val-[0-9a-f]{8}", said.document["logged_as"])
        assert f"{said.document['logged_as']}/coco/box_ap" in said.document["metrics"]

    def test_boxes_alone_are_scored_as_boxes(self, trained, say, copied):
        document = json.loads(copied[0].read_text())
        for number, annotation in enumerate(document["annotations"]):
            if number % 2:
                annotation["segmentation"] = []
            else:
                del annotation["segmentation"]
        copied[0].write_text(json.dumps(document))
        flags = ("--split", "boxes", "--annotations", copied[0], "--images", copied[1])

        said = say(eval_verb.cli, "--run-id", trained.run_id, *flags, "--json")

        assert said.code == 0, said.err
        assert "boxes/coco/box_ap" in said.document["metrics"]
        assert not [name for name in said.document["metrics"] if "mask" in name]
        total = len(document["annotations"])
        assert f"{total} of {total} annotations have no mask: boxes alone are scored" in said.err

    @pytest.mark.parametrize("split", ["täst", "../up", "a/b", "", ".", "..", "x" * 101, "best", "a\nb", " a", "-a"])
    def test_a_splits_name_is_checked_before_anything_is_opened(self, say, split, tmp_path):
        before = sorted(tmp_path.rglob("*"))

        error = say(eval_verb.cli, "--run-id", "any", f"--split={split}", "--out", tmp_path / "out").error

        assert error.startswith("error: --split ")
        assert "a split's name has at most 100 letters" in error
        assert sorted(tmp_path.rglob("*")) == before

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
            (["--split", "test", "--annotations", "."], "--annotations and --images go together"),
            (["--split", "test", "--images", "."], "--annotations and --images go together"),
            (["--annotations", ".", "--images", "."], "your files need a name of their own"),
            (["--split", "nowhere"], "instances_nowhere.json"),
        ],
    )
    def test_data_given_by_halves_is_refused(self, trained, say, flags, said):
        assert said in say(eval_verb.cli, "--run-id", trained.run_id, *flags).error

    def test_other_classes_are_refused(self, trained, say, tiny_coco):
        flags = ("--split", "test", "--annotations", tiny_coco.annotations, "--images", tiny_coco.images)

        error = say(eval_verb.cli, "--run-id", trained.run_id, *flags).error

        assert "has 3 classes, the run was trained on 12; first difference: class 1 is 'cat', the run's is " in error


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


def test_of_many_classes_the_weakest_are_shown(capsys):
    rows = [{"id": k, "name": f"class{k:03d}", "iou": k / 100} for k in range(100, 0, -1)] + [{"id": 0, "name": "none"}]

    eval_verb.show_classes(rows)

    shown = capsys.readouterr().out
    assert f"the weakest {eval_verb.SHOWN} classes of 101, all in per_class.json" in shown
    assert re.findall(r"class\d+", shown) == [f"class{k:03d}" for k in range(1, eval_verb.SHOWN + 1)]

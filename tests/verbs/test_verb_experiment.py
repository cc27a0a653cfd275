"""An experiment's command line, piip.train and piip.rows: bad input is one line and a non-zero exit."""

import pytest
from verbing import break_a_jpeg, spec_to_train, sweep

from piip import rows, train
from piip.sweeps import cli as experiment
from piip.tracking.store import Store


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

    skipped = train("--set", "data.broken_images=skip", "--set", "data.name=jpegs", "--json")
    assert skipped.code == 0
    (run,) = [run for run in Store().find_runs("jpeg_pico_jpegs") if "mlflow.parentRunId" in run.tags]
    assert run.status == "FINISHED"

"""The verbs that read MLflow: a server that is down, piip.report, piip.sync."""

import socket

import pytest
from verbing import sweep

from piip import eval as eval_verb
from piip import predict, report, sync


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
        assert "connection refused" in say(report.cli, "--experiment", "tests").error

    def test_report_of_an_unknown_experiment_lists_those_there_are(self, trained, say):
        assert "no experiment 'test'" in say(report.cli, "--experiment", "test").error
        assert "There are: tests" in say(report.cli, "--experiment", "test").err

    def test_report_is_one_json_document(self, trained, say, tmp_path):
        said = say(report.cli, "--experiment", "tests", "--out", tmp_path, "--json")

        assert said.code == 0, said.err
        assert [t["run_id"] for t in said.document["trials"]] == [trained.run_id]

    def test_sync_has_nothing_left(self, trained, say):
        said = say(sync.cli, "--json")

        assert said.code == 0
        assert {run["state"] for run in said.document["runs"]} == {"up to date"}

    def test_a_home_that_is_not_absolute_is_one_line(self, say, monkeypatch):
        monkeypatch.setenv("PIIP_HOME", "runs")

        for verb, arguments in (
            (sync.cli, []), (report.cli, ["--experiment", "x"]), (eval_verb.cli, ["--run-id", "x"]), (sweep, ["--scale", "pico"])
        ):  # fmt: skip
            assert "PIIP_HOME must be absolute" in say(verb, *arguments).error

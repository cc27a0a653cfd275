"""piip.cost: a row part by part, rows as tables."""

import pytest
from verbing import spec_to_train

from piip import cost as cost_verb
from piip import presets
from piip.spec import CNNSpec, PaperResult


class TestCost:
    TSB = "mask_rcnn_piip_tsb_1120_896_448_1x"

    @pytest.fixture
    def two_rows(self, monkeypatch) -> None:
        """The smallest network, and it again with a released name and printed figures."""
        paper = PaperResult(box_ap=43.6, mask_ap=38.7, params_m=146, gflops=243, note="of another one")
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
        assert (
            "--size 16: Input should be greater than or equal to 32"
            in say(cost_verb.cli, "tiny", "--size", 16, 128).error
        )

    def test_a_backbone_of_one_part_is_one_line(self, say, two_rows, monkeypatch):
        cnn = presets.mask_rcnn_pico(CNNSpec(arch="resnet18", resolution=96, pretrained=False), steps=1)
        monkeypatch.setattr(cost_verb, "find_row", lambda _: cnn)

        assert say(cost_verb.cli, "cnn", "--size", 64, 64).out.count(" backbone ") == 1

    def test_a_size_of_one_number_is_answered_plainly(self, say):
        said = say(cost_verb.cli, self.TSB, "--size", 100)

        assert said.code == 2
        assert "'--size'. Expected 2 values" in said.err
        assert "[bold]" not in said.err

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

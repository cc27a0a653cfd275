"""Every tensor of a file and of a network is accounted for."""

from functools import partial

import pytest
import torch

from piip.weights.fit import fit as fit_with
from piip.weights.read import WeightsError
from piip.weights.resizing import adapt

fit = partial(fit_with, adapt=adapt)

WANTED = {
    "a.weight": torch.zeros(2, 3),
    "merge.weights.0": torch.zeros(1),
    "pos_embed": torch.zeros(1, 16, 4),
    "patch_embed.proj.weight": torch.zeros(4, 3, 16, 16),
}


def tensors(**changes):
    whole = {
        name: torch.randn(value.shape, generator=torch.Generator().manual_seed(1)) for name, value in WANTED.items()
    }
    return whole | {"merge.weights.0": torch.tensor(2.0)} | changes


def test_a_whole_file_matches():
    fitted, report = fit(tensors(), WANTED, origin="file")

    report.require(())
    assert report.summary == "file: 4 matched, 0 resized, 0 missing, 0 ignored, 0 unexplained"
    assert {name: value.shape for name, value in fitted.items()} == {
        name: value.shape for name, value in WANTED.items()
    }
    assert fitted["merge.weights.0"].tolist() == [2.0]


def test_half_precision_becomes_the_networks():
    fitted, _ = fit(tensors(**{"a.weight": torch.ones(2, 3, dtype=torch.bfloat16)}), WANTED, origin="file")

    assert fitted["a.weight"].dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"a.weight": None}, "1 missing.*Missing: a.weight. .*allow missing"),
        ({"b.bias": torch.zeros(3)}, r"1 unexplained.*Unexplained: b.bias \(this network has no such tensor\)"),
        ({"a.weight": torch.zeros(3, 2)}, r"1 missing, 0 ignored, 1 unexplained\. Missing: a.weight"),
        ({"pos_embed": torch.zeros(1, 25, 4)}, r"Resized: pos_embed \(\(1, 25, 4\) to \(1, 16, 4\)\)"),
        ({"patch_embed.proj.weight": torch.zeros(4, 3, 14, 14)}, r"1 resized"),
        ({"patch_embed.proj.weight": torch.zeros(4, 1, 14, 14)}, r"1 missing"),
        ({"pos_embed": torch.zeros(1, 18, 4)}, r"1 missing"),
    ],
)
def test_what_does_not_match_is_an_error_unless_it_was_asked_for(change, said):
    given = {name: value for name, value in tensors(**change).items() if value is not None}
    _, report = fit(given, WANTED, origin="file")

    with pytest.raises(WeightsError, match=said):
        report.require(())
    report.require(("missing", "unexplained", "resized"))
    accounted = len(report.matched) + len(report.resized) + len(report.missing)
    assert accounted == len(WANTED)


def test_what_is_known_to_be_useless_is_ignored_with_its_reason():
    why = {"head.weight": "a head"}
    _, report = fit(tensors(**{"head.weight": torch.zeros(3)}), WANTED, origin="file", why_not=why.get)

    report.require(())
    assert "  ignored head.weight: a head" in report.lines()


def test_a_class_tokens_row_comes_and_goes():
    with_token = torch.randn(1, 17, 4)
    fitted, report = fit(tensors(pos_embed=with_token), WANTED, origin="file")

    report.require(())
    torch.testing.assert_close(fitted["pos_embed"], with_token[:, 1:])
    fitted, report = fit(tensors(), WANTED | {"pos_embed": torch.zeros(1, 17, 4)}, origin="file")
    report.require(())
    assert fitted["pos_embed"][:, 0].abs().max() == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(bad):
    with pytest.raises(WeightsError, match=r"a\.weight holds nan or inf"):
        fit(tensors(**{"a.weight": torch.full((2, 3), bad)}), WANTED, origin="file")


def test_a_network_on_meta_will_do():
    wanted = {name: value.to("meta") for name, value in WANTED.items()}

    fitted, _ = fit(tensors(), wanted, origin="file")

    assert not any(value.is_meta for value in fitted.values())

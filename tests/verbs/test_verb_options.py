"""Every option of every verb with odd values: one line that names it, exit code 2, before anything heavy is imported.

The table is by kind of option, and the options are the verbs' own: one that is added is tried by being there.
"""

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
from verb_options import VERBS, options
from verbing import sweep

from piip import console, presets, train
from piip.sweeps import cli as experiment
from piip.sweeps.own_data import OwnData

ROW = "mask_rcnn_piip_tb_192_128_pico94"
NEEDED = {
    "eval": ["--run-id", "546c935d"],
    "predict": [__file__, "--run-id", "546c935d", "--out", "drawn"],
    "report": ["--experiment", "tests"],
    "convert": [__file__],
    "data.check": [__file__, "."],
    "data.demo": ["demo"],
    "data.convert": [__file__, ".", "--out", "new.json"],
    "data.pack": [".", "packed"],
}
"""What a verb does not go without; what it knows by its place comes first."""
APART = {
    "--set": "test_a_change_that_a_row_does_not_take_is_one_line",
    "--row": "test_a_row_that_is_none_is_one_line",
    "ROW": "test_a_row_that_is_none_is_one_line",
    "WORD": "test_words_that_pick_no_row_are_one_line",
    "--scale": "test_a_scale_that_is_none_is_one_line",
}
"""Options whose type is any text: the rows say what they take. Who tries them."""
COUNTS = ["three", "1.5", "", "-1", "nan", "1e3", "1,000", "٣٫"]
FIGURES = ["many", "", "-1", "nan", "inf", "1,5"]
NAMES = ["", " ", "..", "a\nb", "a\x1b[31mb", "x" * 300, "ä" * 100]
SPLITS = ["", " ", "a/b", "../up", "täst", "x" * 300, "a\nb", "best"]
DIGESTS = ["", "xyz", "0" * 65, "ä", "12 34"]
IDS = ["", "a/b", "../up", "a.b", "täst", "x" * 300, "a b", "run'; drop table runs"]
VIEWS = ["", "sliced", "slices", "slices=0", "scales=1,x", "merge=wbf", "image=3", "x" * 300, "a\nb"]
TEXTS = {"experiment_name": NAMES, "split_name": SPLITS, "_run_id": IDS, "_digest": DIGESTS, "view_word": VIEWS}
GONE = ["gone", "x" * 300, "ä/../ä\n", f"{__file__}/below"]
PLACES = {
    "given_file": [*GONE, "."],
    "_names": [*GONE, "."],
    "_given_folder": [*GONE, __file__],
    "_there": GONE,
    "function _folder": [__file__, f"{__file__}/below", "x" * 300],
    "_new_file": [".", f"{__file__}/below/x.json", "x" * 300],
}
"""By what checks an option, as its type says."""


class Accepted(Exception):  # noqa: N818 - what happened, and no mistake
    """The words were good: the verb would begin."""


@pytest.fixture(autouse=True)
def nothing_begins(monkeypatch) -> None:
    def accept() -> None:
        raise Accepted

    monkeypatch.setattr(console, "setup_logging", accept)  # the first thing after the words


def odd_values(hint: Any) -> list[list[str]]:
    """What an option of this type must not take; a list of words each. None of a type that nobody has thought of."""
    kinds = set(_kinds(hint))
    if bool in kinds:
        return [["maybe"], [""]]
    if Path in kinds:
        return [[text] for text in PLACES[next(check for check in PLACES if check in repr(hint))]]
    for check, texts in TEXTS.items():
        if str in kinds and check in repr(hint):
            return [[text] for text in texts]
    if get_origin(_plain(hint)) is tuple and int in kinds:
        return [[text, text] for text in COUNTS] + [["64"]]
    if int in kinds:
        return [[text] for text in COUNTS]
    if float in kinds:
        return [[text] for text in FIGURES]
    if Literal in kinds:
        return [["no_such"], [""], ["x" * 300]]
    return []


def _plain(hint: Any) -> Any:
    """Without notes and None."""
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    inner = [part for part in get_args(hint) if part is not type(None)]
    return _plain(inner[0]) if type(None) in get_args(hint) and len(inner) == 1 else hint


def _kinds(hint: Any):
    hint = _plain(hint)
    if get_origin(hint) is Literal:
        yield Literal
    elif get_origin(hint) is tuple:
        yield from (kind for part in get_args(hint) if part is not ... for kind in _kinds(part))
    else:
        yield hint


def typed(verb: str, option: str, words: list[str]) -> list[str]:
    """A command line that lacks nothing, with the option as given."""
    needed = list(NEEDED.get(verb, []))
    if not option.startswith("-"):
        places = [name for place, name, _ in options() if place == verb and not name.startswith("-")]
        needed[places.index(option) : places.index(option) + 1] = words
        return needed
    if option in needed:
        at = needed.index(option)
        del needed[at : at + 2]
    # a value of its own word, however it begins
    value = [f"{option}={words[0]}"] if len(words) == 1 else [option, *words]
    return [ROW, *value] if verb == "train" else [*needed, *value]


def test_every_option_is_of_a_kind_that_is_tried():
    untried = {f"{verb} {option}" for verb, option, hint in options() if not odd_values(hint) and option not in APART}

    assert untried == set()
    assert {test for test in APART.values() if test not in globals()} == set()


@pytest.mark.parametrize(
    ("verb", "option", "hint"), options(), ids=[f"{verb}{option}" for verb, option, _ in options()]
)
def test_odd_values_are_one_line_that_names_the_option(say, verb, option, hint):
    command_line, _ = VERBS[verb]

    for words in odd_values(hint):
        said = say(command_line, *typed(verb, option, words))

        assert said.code == 2, (words, said)
        assert len(said.err.splitlines()) == 1, (words, said.err)
        assert said.error.startswith("error: ")
        assert option in said.err, (words, said.err)
        assert "\x1b" not in said.err


@pytest.mark.parametrize("verb", VERBS)
def test_an_option_that_is_none_and_one_too_few_are_one_line(say, verb):
    command_line, _ = VERBS[verb]
    needed = [ROW] if verb == "train" else NEEDED.get(verb, [])

    said = say(command_line, *needed, "--no-such-option=1")

    assert (said.code, len(said.err.splitlines())) == (2, 1)
    assert "--no-such-option" in said.error
    if verb in NEEDED:
        lacking = say(command_line)
        assert (lacking.code, len(lacking.err.splitlines())) == (2, 1)
        assert "missing: " in lacking.error


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("report", ["--experiment", "a/b"]),
        ("report", ["--experiment", "täst 1.5"]),
        ("report", ["--experiment", "x" * 250]),
        ("eval", ["--run-id", "546c935d8a7f4c1e9d20546c935d8a7f"]),
        ("eval", ["--run-id", "546c935d", "--workers", "8", "--gpus-per-worker", "1", "--max-images", "1"]),
        ("sync", ["--timeout", "0"]),
        ("cost", ["--size", "32", "4000"]),
        ("experiments/FILE.py", ["--concurrent", "1", "--max-gflops", "1e-9", "--loader-processes", "0"]),
    ],
)
def test_what_is_odd_but_good_is_taken(say, verb, words):
    with pytest.raises(Accepted):
        say(VERBS[verb][0], *words)


@pytest.mark.parametrize(
    ("verb", "option"), [(verb, option) for verb, option, hint in options() if "function _folder" in repr(hint)]
)
def test_a_file_where_a_folder_is_wanted_is_said(say, tmp_path, verb, option):
    file = tmp_path / "file"
    file.touch()

    for place, reason in (
        (file, "is a file, a folder is wanted"),
        (file / "below", "is a file"),
        (tmp_path / ("x" * 300), "too long"),
    ):
        said = say(VERBS[verb][0], *typed(verb, option, [str(place)]))
        assert (said.code, len(said.err.splitlines())) == (2, 1)
        assert option in said.error
        assert reason in said.error


class TestOwnFiles:
    """Of an experiment's command line: what is not there is said before anything is read."""

    def test_every_one_is_tried(self):
        tried = {f"--{split}-{what}" for split in ("train", "val") for what in ("annotations", "images")}

        assert {f"--{field.name.replace('_', '-')}" for field in fields(OwnData)} == {
            *tried,
            "--names",
            "--data",
            "--kind",
        }

    @pytest.mark.parametrize("path", ["gone.txt", "x" * 300, "."])
    def test_names_are_a_file(self, say, monkeypatch, tmp_path, path):
        row = presets.upernet_pico(presets.pico("B", (64,), pretrained=False), steps=1)
        flags = [f"--{split}-{what}={tmp_path}" for split in ("train", "val") for what in ("annotations", "images")]

        def segment(words):
            experiment.main({"pico": [row]}, experiment="tests", description="", arguments=words)

        said = say(segment, *flags, "--names", path)

        assert (said.code, len(said.error.splitlines())) == (2, 1)
        assert said.error.startswith("error: --names ")

    @pytest.fixture(autouse=True)
    def it_begins(self, monkeypatch):
        monkeypatch.setattr(console, "setup_logging", lambda: None)
        monkeypatch.setattr(experiment, "_train", lambda *_: pytest.fail("trained"))

    @pytest.fixture
    def flags(self, tiny_coco) -> dict[str, str]:
        good = {"annotations": tiny_coco.annotations, "images": tiny_coco.images}
        return {f"--{split}-{what}": str(path) for split in ("train", "val") for what, path in good.items()}

    @pytest.mark.parametrize("flag", ["--train-annotations", "--val-annotations", "--train-images", "--val-images"])
    def test_what_is_not_there_or_something_else(self, say, flags, flag, tmp_path):
        other = flags["--train-images" if flag.endswith("annotations") else "--train-annotations"]
        odd = {
            str(tmp_path / "gone"): "no such",
            str(tmp_path / ("x" * 300)): "no such",
            "/": "",
            "ä/../ä\n": "no such",
            other: " wants a ",
        }

        for path, reason in odd.items():
            if path == "/" and flag.endswith("images"):
                continue  # a folder
            said = say(sweep, "--scale", "pico", *(word for item in (flags | {flag: path}).items() for word in item))
            assert (said.code, len(said.error.splitlines())) == (2, 1)
            assert said.error.startswith(f"error: {flag} ")
            assert reason in said.error


@pytest.mark.parametrize("word", ["no_such", "x" * 300, "a\nb", "../up", "[", "täst"])
def test_words_that_pick_no_row_are_one_line(say, monkeypatch, word):
    monkeypatch.setattr(console, "setup_logging", lambda: None)

    said = say(VERBS["rows"][0], "--names", word)

    assert (said.code, len(said.err.splitlines())) == (2, 1)
    assert said.error.startswith("error: ")


@pytest.mark.parametrize("scale", ["", "no_such", "PICO", "x" * 300, "a\nb"])
def test_a_scale_that_is_none_is_one_line(say, scale):
    said = say(sweep, f"--scale={scale}")

    assert (said.code, len(said.err.splitlines())) == (2, 1)
    assert "--scale" in said.error


@pytest.mark.parametrize("verb", ["train", "experiments/FILE.py", "cost", "convert"])
@pytest.mark.parametrize(
    "given", ["", "=", "no_equals", "optim.nothing=1", "train.batch_size=three", "train.steps=-1",
     f"{'x' * 300}=1", "a..b=1", "ä=ö", "train=1"]
)  # fmt: skip
def test_a_change_that_a_row_does_not_take_is_one_line(say, monkeypatch, verb, given):
    monkeypatch.setattr(console, "setup_logging", lambda: None)
    named = {"convert": [__file__, "--row", ROW], "experiments/FILE.py": ["--scale", "pico"]}.get(verb, [ROW])

    said = say(VERBS[verb][0], *named, "--set", given)

    assert (said.code, len(said.err.splitlines())) == (2, 1)
    assert said.error.startswith("error: --set ")


@pytest.mark.parametrize("name", ["no/such", "../up", "x" * 300, "täst", "a\nb"])
@pytest.mark.parametrize("verb", ["train", "experiments/FILE.py", "cost", "convert"])
def test_a_row_that_is_none_is_one_line(say, monkeypatch, verb, name):
    monkeypatch.setattr(console, "setup_logging", lambda: None)
    monkeypatch.setattr(train, "setup_logging", lambda: None)

    said = say(VERBS[verb][0], *([__file__, "--row", name] if verb == "convert" else [name]))

    assert (said.code, len(said.err.splitlines())) == (2, 1)
    assert said.error.startswith("error: no row ")

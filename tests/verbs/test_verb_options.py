"""Every option of every verb with odd values: one line that names it, exit code 2, before anything heavy is imported.

The table is by kind of option, and the options are the verbs' own: one that is added is tried by being there.
"""

from dataclasses import fields
from importlib import import_module
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest
import tyro
from verbing import sweep

from piip import __main__ as all_verbs
from piip import console, train
from piip.sweeps import cli as experiment

ROW = "mask_rcnn_piip_tb_192_128_pico94"
NEEDED = {
    "eval": ["--run-id", "546c935d"],
    "predict": ["photo.jpg", "--run-id", "546c935d", "--out", "drawn"],
    "report": ["--experiment", "tests"],
    "convert": ["model.pth"],
    "data.check": ["a.json", "images"],
    "data.demo": ["demo"],
}
"""What a verb does not go without."""
COUNTS = ["three", "1.5", "", "-1", "nan", "1e3", "1,000", "٣٫"]
FIGURES = ["many", "", "-1", "nan", "inf", "1,5"]
NAMES = ["", " ", "..", "a\nb", "a\x1b[31mb", "x" * 300, "ä" * 100]
IDS = ["", "a/b", "../up", "a.b", "täst", "x" * 300, "a b", "run'; drop table runs"]


class Accepted(Exception):  # noqa: N818 - what happened, and no mistake
    """The words were good: the verb would begin."""


@pytest.fixture(autouse=True)
def nothing_begins(monkeypatch) -> None:
    def accept() -> None:
        raise Accepted

    monkeypatch.setattr(console, "setup_logging", accept)  # the first thing after the words


def verbs() -> dict[str, tuple[Any, type]]:
    """Verb -> its command line and the class of its options; `train` has those of an experiment's file."""
    found = {}
    for name, file in all_verbs.verbs().items():
        module = import_module(".".join(("piip", *file.relative_to(all_verbs.PACKAGE).with_suffix("").parts)))
        found[name] = (module.cli, getattr(module, "Options", experiment.Options))
    return found | {"experiments/FILE.py": (sweep, experiment.Options)}


VERBS = verbs()


def options() -> list[tuple[str, str, Any]]:
    """(verb, option as it is typed, its type)."""
    found = []
    for verb, (_, kind) in VERBS.items():
        hints = get_type_hints(kind, include_extras=True)
        found += [(verb, f"--{field.name.replace('_', '-')}", hints[field.name]) for field in fields(kind)
                  if tyro.conf.Positional not in getattr(hints[field.name], "__metadata__", ()) and field.name != "own"]  # fmt: skip
    return found


def odd_values(hint: Any) -> list[list[str]]:
    """What an option of this type must not take; a list of words each."""
    kinds = set(_kinds(hint))
    if str in kinds and "_run_id" in repr(hint):
        return [[text] for text in IDS]
    if str in kinds and "experiment_name" in repr(hint):
        return [[text] for text in NAMES]
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
    if option in needed:
        at = needed.index(option)
        del needed[at : at + 2]
    # a value of its own word, however it begins
    value = [f"{option}={words[0]}"] if len(words) == 1 else [option, *words]
    return [ROW, *value] if verb == "train" else [*needed, *value]


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


@pytest.mark.parametrize(("verb", "option"), [("eval", "--out"), ("predict", "--out"), ("report", "--out")])
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
            other: "wanted",
        }

        for path, reason in odd.items():
            if path == "/" and flag.endswith("images"):
                continue  # a folder
            said = say(sweep, "--scale", "pico", *(word for item in (flags | {flag: path}).items() for word in item))
            assert (said.code, len(said.error.splitlines())) == (2, 1)
            assert said.error.startswith(f"error: {flag} ")
            assert reason in said.error


@pytest.mark.parametrize("verb", ["train", "experiments/FILE.py", "cost"])
@pytest.mark.parametrize(
    "given", ["", "=", "no_equals", "optim.nothing=1", "train.batch_size=three", "train.steps=-1",
     f"{'x' * 300}=1", "a..b=1", "ä=ö", "train=1"]
)  # fmt: skip
def test_a_change_that_a_row_does_not_take_is_one_line(say, monkeypatch, verb, given):
    monkeypatch.setattr(console, "setup_logging", lambda: None)
    named = [ROW] if verb in ("train", "cost") else ["--scale", "pico"]

    said = say(VERBS[verb][0], *named, "--set", given)

    assert (said.code, len(said.err.splitlines())) == (2, 1)
    assert said.error.startswith("error: --set ")


@pytest.mark.parametrize("name", ["no/such", "../up", "x" * 300, "täst", "a\nb"])
@pytest.mark.parametrize("verb", ["train", "experiments/FILE.py", "cost"])
def test_a_row_that_is_none_is_one_line(say, monkeypatch, verb, name):
    monkeypatch.setattr(console, "setup_logging", lambda: None)
    monkeypatch.setattr(train, "setup_logging", lambda: None)

    said = say(VERBS[verb][0], name)

    assert (said.code, len(said.err.splitlines())) == (2, 1)
    assert said.error.startswith("error: no row ")

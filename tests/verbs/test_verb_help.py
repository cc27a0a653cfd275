"""The list of verbs, and what each answers to --help; neither waits for anything heavy."""

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from verbing import ROOT

import piip
from piip import __main__ as all_verbs
from piip import rows, train
from piip.sweeps import cli as experiment


def sweep_file(arguments):
    """The real file."""
    from importlib.util import module_from_spec, spec_from_file_location

    found = spec_from_file_location("sweep_resolutions", ROOT / "experiments" / "sweep_resolutions.py")
    assert found
    assert found.loader
    module = module_from_spec(found)
    found.loader.exec_module(module)
    experiment.main(module.ROWS, experiment="x", description=module.__doc__, arguments=arguments)


HELP = {f"piip.{name}": all_verbs.load(file) for name, file in all_verbs.verbs().items()} | {
    "experiments/sweep_resolutions.py": sweep_file
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
            " ".join(file.relative_to(ROOT / "piip").with_suffix("").parts).removesuffix(" __main__")
            for file in (ROOT / "piip").rglob("*.py")
            if 'if __name__ == "__main__":' in file.read_text() and file != ROOT / "piip" / "__main__.py"
        }

        assert {name.strip() for name in re.findall(r"^piip (.{12}) [A-Z]\w+ ", said.out, re.MULTILINE)} == runnable
        assert say(all_verbs.cli, "--help").out == said.out
        assert said.code == 0

    @pytest.mark.parametrize("name", all_verbs.verbs())
    def test_the_readme_has_each(self, name):
        assert re.search(rf"`piip {name.replace('.', ' ')}\b", (ROOT / "README.md").read_text())

    def test_it_imports_none_of_them(self):
        assert imported_by(["piip"], ["piip", "--help"], among=[f"piip.{name}" for name in all_verbs.verbs()]) == {}

    def test_the_console_script_is_the_same(self, say, monkeypatch, capsys):
        script = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["piip"]
        listed = say(all_verbs.cli).out
        monkeypatch.setattr("sys.argv", ["piip"])

        assert EntryPoint("piip", script, "console_scripts").load()() == 0
        assert capsys.readouterr().out == listed


class TestAnotherVerb:
    """The one that CONTRIBUTING.md shows."""

    @pytest.fixture
    def hello(self, tmp_path, monkeypatch) -> Path:
        (source,) = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
        (tmp_path / "hello.py").write_text(source)
        monkeypatch.setattr(all_verbs, "PACKAGE", tmp_path)
        monkeypatch.setattr(piip, "__path__", [*piip.__path__, str(tmp_path)])
        yield tmp_path / "hello.py"
        sys.modules.pop("piip.hello", None)

    def test_is_found_by_its_file_alone(self, say, hello):
        assert all_verbs.verbs() == {"hello": hello}
        assert re.search(r"^piip hello +Say hello, once a run$", say(all_verbs.cli).out, re.MULTILINE)
        assert say(all_verbs.cli, "hello", "--run-id", "abc").out == "hello, abc\n"
        assert "python -m piip.hello --run-id" in say(all_verbs.cli, "hello", "--help").out


class TestVerbsWithASpace:
    @pytest.mark.parametrize(
        "typed", [["rows", "--names"], ["data.check", "a.json", "b"], ["data", "check", "a.json", "b"]]
    )
    def test_do_what_they_do_with_a_dot(self, say, typed):
        words = 2 if typed[0] == "data" else 1

        dotted = say(HELP[f"piip.{'.'.join(typed[:words])}"], *typed[words:])

        assert say(all_verbs.cli, *typed) == dotted
        assert dotted.out or dotted.error

    def test_from_a_shell(self):
        line = [sys.executable, "-m", "piip", "rows", "--names"]

        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)

        assert done.stdout.splitlines() == list(rows.all_rows())

    def test_those_of_a_word_are_its_help(self, say):
        said = say(all_verbs.cli, "data", "--help")

        assert said.code == 0
        assert re.findall(r"^piip data (\w+) +\w", said.out, re.MULTILINE) == ["check", "convert", "demo", "pack"]

    @pytest.mark.parametrize(
        ("typed", "answer"),
        [
            (["evla", "--run-id", "x"], "error: no verb 'evla'. Nearest: 'eval'. All: piip --help"),
            (
                ["data"],
                "error: 'data' takes one word more: piip data check, piip data convert, piip data demo, piip data pack",
            ),
            (
                ["data", "chekc", "x"],
                "error: no verb 'data chekc'. There are: piip data check, piip data convert, piip data demo, piip data pack",
            ),
            (["--run-id", "x"], "error: no verb '--run-id'. None of 13 is called alike. All: piip --help"),
        ],
    )
    def test_one_that_there_is_not_is_answered_with_what_there_is(self, say, typed, answer):
        said = say(all_verbs.cli, *typed)

        assert said.code == 2
        assert said.error.startswith(answer)


class TestHelp:
    @pytest.mark.parametrize("name", HELP)
    def test_help_shows_an_example(self, say, name):
        said = say(HELP[name], "--help")

        assert said.code == 0
        assert re.search(rf"^ *(\w+=\S+ )?python (-m )?{re.escape(name)}", said.out, re.MULTILINE), said.out
        assert said.err == ""

    @pytest.mark.parametrize("name", HELP)
    def test_help_offers_nothing_that_nobody_types(self, say, name):
        said = say(HELP[name], "--help").out

        assert "{None" not in said
        assert "None" not in re.findall(r"\(default: (\w+)\)", said)
        assert "[STR" not in said
        assert "--no-json" not in said

    def test_scales_are_offered_where_there_are_some(self, say):
        assert "--scale {pico,coco}" in say(sweep_file, "--help").out
        alone = say(train.cli, "--help").out
        assert "--scale" not in alone
        assert "Names of the rows" not in alone  # its row comes first

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
            ["experiments/sweep_resolutions.py", "--workers", "0"],
            ["experiments/sweep_resolutions.py", "--experiment", "x" * 300],
            ["experiments/sweep_resolutions.py", "--set", "optim.lr=high"],
            ["piip.eval", "--run-id", "a/b"],
            ["piip.report", "--experiment", ".."],
            ["piip.sync", "--timeout", "nan"],
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

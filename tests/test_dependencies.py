"""What the code imports is what pyproject.toml declares: nothing undeclared, nothing for nobody."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

NOT_OURS_TO_DECLARE = {
    "triton": "comes with PyTorch's CUDA builds, in the version they need; ops/ looks for it and does without",
}
USED_BY_NAME = {
    "scikit-image": "photographs, found as files",
    "scikit-learn": "photographs, found as files",
    "pytest-xdist": "pytest's -n",
    "ruff": "make lint",
    "pyright": "make lint",
    "import-linter": "make lint",
    "hatchling": "the wheel's build",
}
"""Declared, and imported nowhere."""

SCRIPTS = {file.stem for folder in ("experiments", "tests") for file in (ROOT / folder).rglob("*.py")}
"""They import one another by name, from the folder they are in."""
BRINGS = packages_distributions()


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w.-]", requirement)[0].lower() for requirement in requirements}


DECLARED = names(PROJECT["dependencies"])
FOR_DEVELOPERS = names(PROJECT["optional-dependencies"]["dev"])


def imported(folder: Path) -> Iterator[tuple[str, str]]:
    """Modules that are neither Python's nor ours, each with where it is imported."""
    ours = {"piip"} if folder.name == "piip" else {"piip", *SCRIPTS}
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.Import(names=aliases):
                    modules = [alias.name for alias in aliases]
                case ast.ImportFrom(module=str(module), level=0):
                    modules = [module]
                case _:
                    continue
            for module in (name.split(".")[0] for name in modules):
                if module not in sys.stdlib_module_names and module not in ours:
                    yield module, f"{file.relative_to(ROOT)}:{node.lineno}"


def distributions(module: str) -> set[str]:
    """The packages that bring a module, in lower case; the module's own name where none is installed."""
    return {name.lower() for name in BRINGS.get(module, [module])}


@pytest.mark.parametrize(
    ("folder", "declared"), [("piip", DECLARED), ("experiments", DECLARED), ("tests", DECLARED | FOR_DEVELOPERS)]
)
def test_everything_imported_is_declared(folder, declared):
    undeclared = {
        place: module
        for module, place in imported(ROOT / folder)
        if module not in NOT_OURS_TO_DECLARE and not distributions(module) & declared
    }

    assert undeclared == {}


def test_everything_declared_is_used():
    used = {
        name
        for folder in ("piip", "experiments")
        for module, _ in imported(ROOT / folder)
        for name in distributions(module)
    }
    in_tests = {name for module, _ in imported(ROOT / "tests") for name in distributions(module)}

    assert DECLARED - used - set(USED_BY_NAME) == set()
    assert FOR_DEVELOPERS - in_tests - set(USED_BY_NAME) == set()


def test_every_pinned_version_is_exact_and_of_no_index():
    lines = (ROOT / "constraints.txt").read_text().splitlines()[1:]

    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.+-]+", line)] == []
    assert {re.sub(r"\[.*", "", line.split("==")[0]).lower() for line in lines} >= (DECLARED | FOR_DEVELOPERS)

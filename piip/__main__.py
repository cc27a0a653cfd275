"""`piip VERB`, or `python -m piip VERB`: what there is to type, a line each, and the way to it. Imports only the verb that is typed."""

import ast
import re
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from piip import home
from piip.console import guarded
from piip.nearest import nearest

PACKAGE = Path(__file__).parent
END = re.compile(r"[.:;](?:\s|$)")
"""Where a docstring's first sentence ends."""


def verbs() -> dict[str, Path]:
    """The files of the package with a function `cli`, by the name a person types; those of folders (`data.check`) last."""
    found = {}
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__main__" else parts)  # data/demo/__main__.py is data.demo
        if name and re.search(r"^def cli\(", file.read_text(encoding="utf-8"), re.MULTILINE):
            found[name] = file
    return dict(sorted(found.items(), key=lambda item: (item[0].count("."), item[0])))


def cli(arguments: Sequence[str]) -> int:
    """Run the verb that is named first, as `data.check` or `data check`; none, or --help: list them."""
    found = verbs()
    if not arguments or arguments[0] in ("-h", "--help"):
        show(found)
        return 0
    below = {name: file for name, file in found.items() if name.startswith(f"{arguments[0]}.")}
    if below and arguments[1:2] in (["-h"], ["--help"]):
        show_lines(below)
        return 0
    for words in range(1, 1 + max(name.count(".") + 1 for name in found)):
        name = ".".join(arguments[:words])
        if name in found:
            return load(found[name])(arguments[words:])
    print(f"error: {answer(arguments, found)}", file=sys.stderr)
    return 2


def load(file: Path) -> Callable[[Sequence[str]], int]:
    """A verb, imported: the function `cli` of its file."""
    return import_module(".".join(("piip", *file.relative_to(PACKAGE).with_suffix("").parts))).cli


def answer(typed: Sequence[str], found: dict[str, Path]) -> str:
    """What there is instead of a verb that is none."""
    below = [name.replace(".", " ") for name in found if name.startswith(f"{typed[0]}.")]
    if below:
        further = typed[1:] and not typed[1].startswith("-")
        said = f"no verb {' '.join(typed[:2])!r}. There are" if further else f"{typed[0]!r} takes one word more"
        return f"{said}: {', '.join(f'piip {name}' for name in below)}"
    return f"no verb {typed[0]!r}. {nearest(typed[0], found)} All: piip --help"


def show(found: dict[str, Path]) -> None:
    """Print every verb with what its docstring says first."""
    print("Which networks, at which image sizes, should I spend my FLOPs on, for my data?\n")
    scripts = "experiments" if home.in_checkout() else home.shipped("experiments")
    print(f"python {scripts}/sweep_resolutions.py   trains and compares; README.md begins with it\n")
    show_lines(found)


def show_lines(found: dict[str, Path]) -> None:
    """Print these verbs, a line each."""
    for name, file in found.items():
        about = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        print(f"piip {name.replace('.', ' '):12} {re.split(END, about)[0]}")
    print("\nEach takes --help, and is python -m piip.VERB too (python -m piip.data.check).")


def main() -> int:
    """What the console script `piip` runs; returns the exit code."""
    return guarded(lambda: cli(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())

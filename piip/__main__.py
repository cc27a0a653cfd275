"""`python -m piip`: what there is to type, a line each. Imports none of it."""

import ast
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from piip.console import guarded

VERBS = (
    "train",
    "rows",
    "cost",
    "eval",
    "predict",
    "report",
    "convert",
    "sync",
    "data.demo",
    "data.check",
    "ops.build",
)
"""In the order a person meets them; each is `python -m piip.<verb>`."""
END = re.compile(r"[.:;](?:\s|$)")
"""Of what a docstring says first."""


def cli(arguments: Sequence[str]) -> int:
    """Print every verb with the first line of its docstring; anything but --help is a mistake."""
    if arguments and arguments[0] not in ("-h", "--help"):
        print(
            f"error: no {arguments[0]!r} here; verbs are typed with a dot, python -m piip.eval. All: python -m piip",
            file=sys.stderr,
        )
        return 2
    print("Which networks, at which image sizes, should I spend my FLOPs on, for my data?\n")
    print("python experiments/sweep_resolutions.py   trains and compares; README.md begins with it\n")
    for verb in VERBS:
        file = Path(__file__).parent / f"{verb.replace('.', '/')}.py"
        about = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        print(f"python -m piip.{verb:10}  {re.split(END, about)[0]}")
    print("\nEach takes --help.")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(lambda: cli(sys.argv[1:])))

"""How long files and functions are: `make sizes`, or python tests/sizes.py [FOLDER ...].

Lines with comments and docstrings, of .py files of at least five lines. A function counts what is inside it, too.
"""

import ast
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

LONGEST = 3


def functions(text: str) -> Iterator[tuple[str, int]]:
    """Every function and method of a file: where it begins, with its name, and its lines."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            yield f"{node.lineno} {node.name}", node.end_lineno - node.lineno + 1


def quantile(lengths: Sequence[int], share: float) -> int:
    """The length that `share` of them stay below or at; of an ascending list."""
    return lengths[min(int(share * len(lengths)), len(lengths) - 1)]


def show(what: str, lengths: dict[str, int]) -> None:
    """One line of figures, and the longest."""
    if not lengths:
        print(f"{what}: none")
        return
    ascending = sorted(lengths.values())
    median, p90 = quantile(ascending, 0.5), quantile(ascending, 0.9)
    print(f"{what}: {len(ascending)}, lines: median {median}, p90 {p90}, max {ascending[-1]}")
    for name, lines in sorted(lengths.items(), key=lambda item: -item[1])[:LONGEST]:
        print(f"    {lines:4} {name}")


def main(folders: Sequence[str]) -> None:
    """Print the figures of all folders together."""
    texts = {
        path: path.read_text(encoding="utf-8") for folder in folders for path in sorted(Path(folder).rglob("*.py"))
    }
    files = {str(path): len(text.splitlines()) for path, text in texts.items()}
    show("files", {name: lines for name, lines in files.items() if lines >= 5})
    show("functions", {f"{path}:{name}": lines for path, text in texts.items() for name, lines in functions(text)})


if __name__ == "__main__":
    main(sys.argv[1:] or ["piip", "experiments"])

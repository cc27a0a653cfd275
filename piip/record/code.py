"""Which code makes the numbers of a spec: a trial's key changes with it, and with no other code.

It is what `training/run.py` imports, and what that imports, without what this spec does not build. Nothing lists the files: every
module's source is parsed, and these parts of it lead nowhere:

    case UPerNetSpec(): ...      of a spec without one: `models.build_model` and `data.open_dataset` choose by such cases
    isinstance(x, RoIHeads)      asks what something is; annotations, assertions and `if TYPE_CHECKING` do not build either
    SILENT                       modules that write down, draw or say, and decide no number

So a new head changes the keys of its own rows only: lines of a case that does not run, and imports of our own, are not hashed.
What fields of specs mean is in `trial_key` by their values; what they compute (spec/) is not hashed.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from piip import home
from piip.spec import ExperimentSpec, PIIPSpec, Spec

START = "piip.training.run"
SILENT = (
    "piip.console", "piip.contracts", "piip.data.drawing", "piip.data.overlays", "piip.data.painting", "piip.data.sources",
    "piip.durable", "piip.home", "piip.nearest", "piip.ops.compiled.check", "piip.record", "piip.spec", "piip.training.accounting",
    "piip.training.machine", "piip.training.recorder",
)  # fmt: skip
"""Modules, or rooms, that are not followed."""
KERNELS = "piip.ops.compiled.cpu"
"""Who imports this runs the sources in csrc/."""
SOURCES = (".cpp", ".h", ".cu", ".cuh")


def code_digest(spec: ExperimentSpec) -> str:
    """Twelve hex digits of the code, and of the weights shipped with it, that make the numbers of `spec`."""
    own = tuple(sorted(_shipped_weights(spec)))
    return _digest(home.package_root(), frozenset(_kinds(spec)), own)


def code_files(spec: ExperimentSpec) -> list[str]:
    """Those files, relative to the folder that holds the package."""
    root = home.package_root()
    return sorted([*_hashed(root, frozenset(_kinds(spec))), *_shipped_weights(spec)])


@cache
def _digest(root: Path, kinds: frozenset[str], weights: tuple[str, ...]) -> str:
    """Once a process for each set of specs' classes, however many rows."""
    contents = _hashed(root, kinds) | {name: _bytes(root / name) for name in weights}
    digest = hashlib.sha256()
    for name, content in sorted(contents.items()):
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:12]


def _kinds(spec: Spec) -> Iterator[str]:
    """Names of the classes a spec is made of, those they come from included."""
    yield from (parent.__name__ for parent in type(spec).__mro__)
    for name in type(spec).model_fields:
        value = getattr(spec, name)
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, Spec):
                yield from _kinds(part)


def _shipped_weights(spec: ExperimentSpec) -> Iterator[str]:
    """Files of the pico networks' pretraining that a new training reads."""
    branches = spec.model.backbone.branches if isinstance(spec.model.backbone, PIIPSpec) else ()
    for branch in branches:
        file = f"piip/models/branches/weights/{branch.arch}.safetensors"
        if branch.pretrained and not (branch.weights or spec.model.weights) and (home.package_root() / file).is_file():
            yield file


def _hashed(root: Path, kinds: frozenset[str]) -> dict[str, bytes]:
    """What of which file counts: Python by what runs for specs of these classes, sources of kernels whole."""
    found: dict[str, bytes] = {}
    waiting, seen = [START], {START}
    while waiting:
        module = waiting.pop()
        file = _file(root, module)
        assert file is not None
        reading = _Reading(file, kinds)
        found[file.relative_to(root).as_posix()] = reading.live_lines()
        for name in (*_parents(module), *reading.imports(root)):
            if name not in seen and not _is_silent(name):
                seen.add(name)
                waiting.append(name)
    return found | (_kernel_sources(root) if KERNELS in seen else {})


def _kernel_sources(root: Path) -> dict[str, bytes]:
    folder = home.shipped("csrc")
    files = (file for file in folder.rglob("*") if file.suffix in SOURCES)
    return {f"csrc/{file.relative_to(folder).as_posix()}": _bytes(file) for file in files}


def _is_silent(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in SILENT)


def _parents(module: str) -> Iterator[str]:
    """The packages a module is in, whose `__init__` Python runs first."""
    while module := module.rpartition(".")[0]:
        yield module


def _file(root: Path, module: str) -> Path | None:
    place = root / module.replace(".", "/")
    return next((f for f in (place.with_suffix(".py"), place / "__init__.py") if f.is_file()), None)


@cache
def _bytes(file: Path) -> bytes:
    return file.read_bytes()


@cache
def _parsed(file: Path) -> tuple[ast.Module, frozenset[str]]:
    """A module, and the names in it."""
    tree = ast.parse(_bytes(file))
    return tree, frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))


class _Reading(ast.NodeVisitor):
    """One module's source, read for specs of some classes."""

    def __init__(self, file: Path, kinds: frozenset[str]) -> None:
        self._lines, self._kinds = _bytes(file).splitlines(keepends=True), kinds
        self._imports: list[tuple[str, str]] = []
        """Module and name, as in `from module import name`; an empty name for `import module`."""
        self._used: set[str] = set()
        self._left_out: set[int] = set()
        tree, self._named = _parsed(file)
        self.visit(tree)

    def live_lines(self) -> bytes:
        """The source without cases that do not run and without imports of our own."""
        return b"".join(line for number, line in enumerate(self._lines, 1) if number not in self._left_out)

    def imports(self, root: Path) -> Iterator[str]:
        """Our own modules that it runs."""
        for module, name in self._imports:
            if name and _file(root, f"{module}.{name}"):
                yield f"{module}.{name}"
            elif not name or name in self._used or name not in self._named:  # or imported for what importing it does
                yield module

    def visit_Import(self, node: ast.Import) -> None:
        ours = [alias.name for alias in node.names if alias.name.partition(".")[0] == "piip"]
        self._imports += [(name, "") for name in ours]
        self._leave_out(node, ours=bool(ours))

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        ours = (node.module or "").partition(".")[0] == "piip"
        if ours:
            self._imports += [(node.module or "", alias.name) for alias in node.names]
            self._used |= {alias.name for alias in node.names if alias.asname in self._named}
        self._leave_out(node, ours=ours)

    def visit_match_case(self, node: ast.match_case) -> None:
        classes = {
            n.cls.id for n in ast.walk(node.pattern) if isinstance(n, ast.MatchClass) and isinstance(n.cls, ast.Name)
        }
        if classes and all(name.endswith("Spec") for name in classes) and not classes & self._kinds:
            self._left_out |= set(range(node.pattern.lineno, (node.body[-1].end_lineno or 0) + 1))
        else:
            self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        asks = isinstance(node.func, ast.Name) and node.func.id == "isinstance"
        for part in (node.args[0],) if asks else ast.iter_child_nodes(node):
            self.visit(part)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for part in (*node.decorator_list, node.args, *node.body):
            self.visit(part)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value:
            self.visit(node.value)

    def visit_arg(self, node: ast.arg) -> None:
        """An argument's annotation builds nothing."""

    def visit_Assert(self, node: ast.Assert) -> None:
        """Our own promises build nothing."""

    def visit_Name(self, node: ast.Name) -> None:
        self._used.add(node.id)

    def _leave_out(self, node: ast.stmt, *, ours: bool) -> None:
        if ours:
            self._left_out |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))

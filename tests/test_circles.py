"""No module imports itself by way of others, inside functions either."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import piip

PACKAGE = Path(piip.__file__).parent


class _Imports(ast.NodeVisitor):
    """Names as written, of a module's top level and of its functions; what only type checkers read is no import."""

    def __init__(self, tree):
        self.names = []
        self.visit(tree)

    def visit_If(self, node):
        if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            self.generic_visit(node)

    def visit_Import(self, node):
        self.names += [(alias.name, "") for alias in node.names]

    def visit_ImportFrom(self, node):
        self.names += [(node.module, alias.name) for alias in node.names]


def imports_of(sources):
    """Module -> modules among `sources` (name -> text) that it imports."""
    graph = {}
    for module, text in sources.items():
        found = _Imports(ast.parse(text)).names
        named = {full if (full := f"{name}.{part}") in sources else name for name, part in found}
        graph[module] = (named & sources.keys()) - {module}
    return graph


def circle_in(sources):
    try:
        TopologicalSorter(imports_of(sources)).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_module_imports_itself_by_way_of_others():
    files = {file: ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts) for file in PACKAGE.rglob("*.py")}
    sources = {name.removesuffix(".__init__"): file.read_text(encoding="utf-8") for file, name in files.items()}

    assert len(sources) > 100
    assert imports_of(sources)["piip.ops.kernels"] >= {"piip.ops.compiled.cpu", "piip.ops.compiled.cuda"}
    assert circle_in(sources) == []


def test_a_circle_through_a_function_is_found():
    a, b = "from piip import b", "def f():\n    from piip.a import x"

    assert set(circle_in({"piip.a": a, "piip.b": b})) == {"piip.a", "piip.b"}
    assert circle_in({"piip.a": a, "piip.b": "if TYPE_CHECKING:\n    from piip.a import x"}) == []

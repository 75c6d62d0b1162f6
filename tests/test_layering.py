"""Who may import whom: holds without the tools that also check it."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

import scalenet_cli

PACKAGE = Path(scalenet_cli.__file__).parent
PROJECT = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())
CONTRACT = PROJECT["tool"]["importlinter"]["contracts"][0]["layers"]
LAYERS = [[name.strip() for name in layer.split("|")] for layer in CONTRACT]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def imports(path: Path) -> set[str]:
    """First parts below ``scalenet_cli`` that a file imports, lazily or not."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("scalenet_cli.")}
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.name)
def test_imports_point_down(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own in {"__init__", "__main__"}:
        return
    upward = {name for name in imports(path) - {own} if RANK[name] <= RANK[own]}
    assert not upward


def test_a_planted_violation_is_seen(tmp_path: Path) -> None:
    planted = tmp_path / "x.py"
    planted.write_text("def f():\n    from scalenet_cli.commands.expand import x\n")
    assert imports(planted) == {"commands"}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def import_graph(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Module -> modules that it imports anywhere: in functions and for types only, too.

    The parents of an imported module, whose ``__init__.py`` Python runs as well, are left out.
    """
    graph: dict[str, set[str]] = {}
    for module, source in sources.items():
        found = set()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module} has a relative import"
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= names & sources.keys()
                if not names <= sources.keys():
                    found.add(str(node.module))
        graph[module] = found & sources.keys()
    return graph


def import_cycles(sources: Mapping[str, str]) -> list[list[str]]:
    """Strongly connected components of the graph that are no single modules, by Tarjan."""
    graph = import_graph(sources)
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    cycles = []

    def visit(module: str) -> None:
        order[module] = low[module] = len(order)
        stack.append(module)
        for other in graph[module]:
            if other not in order:
                visit(other)
            if other in stack:
                low[module] = min(low[module], low[other])
        if low[module] == order[module]:
            at = stack.index(module)
            component = stack[at:]
            del stack[at:]
            if len(component) > 1 or module in graph[module]:
                cycles.append(sorted(component))

    for module in graph:
        if module not in order:
            visit(module)
    return cycles


def test_no_module_imports_itself_on_the_way_round() -> None:
    sources = {module_name(path): path.read_text() for path in PACKAGE.rglob("*.py")}
    assert len(sources) > 250
    assert sum(map(len, import_graph(sources).values())) > 1000
    assert import_cycles(sources) == []


@pytest.mark.parametrize(
    "closing",
    [
        "import p.a",
        "from p.a import x",
        "from p import a",
        "def f():\n    from p.a import x",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.a import x",
    ],
)
def test_a_planted_cycle_is_found(closing: str) -> None:
    sources = {"p": "", "p.a": "from p.b import x", "p.b": "import p.c", "p.d": "import p.a"}
    assert import_cycles({**sources, "p.c": "x = 1"}) == []
    assert import_cycles({**sources, "p.c": closing}) == [["p.a", "p.b", "p.c"]]


@pytest.mark.parametrize(
    "arguments", [["--help"], ["check", "paper/table1/deit_base"], ["recipes"]]
)
def test_quick_commands_do_not_import_torch(arguments: list[str]) -> None:
    code = (
        "import sys; from scalenet_cli.cli.app import app\n"
        "try: app(sys.argv[1:], standalone_mode=False)\n"
        "finally: sys.exit('torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout


RENAMING = {"rename", "renames", "renameat2", "mkstemp", "mkdtemp"}


def renames(source: str) -> bool:
    """Whether it moves or makes temporary files; ``replace`` with one argument is a path's."""
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and (
            node.func.attr in RENAMING
            or (node.func.attr == "replace" and len(node.args) == 1)
            or ast.unparse(node.func) == "os.replace"
        )
        for node in ast.walk(ast.parse(source))
    )


def test_one_package_puts_files_in_place() -> None:
    paths = {p.relative_to(PACKAGE).as_posix(): p for p in PACKAGE.rglob("*.py")}
    found = {name for name, p in paths.items() if renames(p.read_text())}
    assert not {name for name in found if not name.startswith("files/")}
    assert any(name.startswith("files/") for name in found)

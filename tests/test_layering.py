"""Who may import whom: holds without the tools that also check it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import scalenet_cli

PACKAGE = Path(scalenet_cli.__file__).parent
LAYERS = (
    ("cli",),
    ("commands",),
    ("vision", "language"),
    ("training", "measure"),
    ("surgery", "bundle"),
    ("families", "adapters", "files"),
    ("plan",),
    ("errors",),
)
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
    if own not in RANK:
        return
    upward = {name for name in imports(path) - {own} if RANK[name] <= RANK[own]}
    assert not upward


def test_a_planted_violation_is_seen(tmp_path: Path) -> None:
    planted = tmp_path / "x.py"
    planted.write_text("def f():\n    from scalenet_cli.commands.expand import x\n")
    assert imports(planted) == {"commands"}


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

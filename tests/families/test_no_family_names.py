"""Outside `families/` no code knows a family by its name or by its module."""

import ast
from pathlib import Path

import scalenet_cli
from scalenet_cli.families import FAMILIES

PACKAGE = Path(scalenet_cli.__file__).parent


def test_no_code_outside_families_names_or_imports_one() -> None:
    outside = [
        path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != PACKAGE / "families"
    ]
    modules = {path.split(":")[0] for path in FAMILIES.values()}
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in outside
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Constant) and node.value in FAMILIES)
        or (isinstance(node, ast.ImportFrom) and node.module in modules)
        or (isinstance(node, ast.Import) and modules & {alias.name for alias in node.names})
    ]
    assert found == []

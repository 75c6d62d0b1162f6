"""Outside `families/` no code knows a family by its name."""

import ast
from pathlib import Path

import scalenet_cli
from scalenet_cli.families import FAMILIES

PACKAGE = Path(scalenet_cli.__file__).parent


def test_no_code_outside_families_compares_the_name_of_a_family() -> None:
    outside = [
        path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != PACKAGE / "families"
    ]
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in outside
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in FAMILIES
    ]
    assert found == []

"""Outside `tasks/` no code knows a task by its name; a family says which it is for."""

import ast
from pathlib import Path

import scalenet_cli
from scalenet_cli.tasks import TASKS

PACKAGE = Path(scalenet_cli.__file__).parent
# The default of recipes that name none, and the names that 0.1.0 wrote.
ALLOWED = {"plan/training.py"}


def test_no_code_outside_tasks_and_families_names_a_task() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] not in {"tasks", "families"}
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in TASKS
    }
    assert found == ALLOWED

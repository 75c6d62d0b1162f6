"""How large files and functions may be; what is too large today is listed, and only shrinks."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import scalenet_cli

PACKAGE = Path(scalenet_cli.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_FILE, MAX_FUNCTION, MAX_COMMANDS = 300, 40, 2000
# The error tree is drawn in one piece.
LARGE_FILES = {"errors.py"}
# To be taken apart; a name that is no longer too long has to go.
LONG_FUNCTIONS = {
    # One argument per option, of which it makes records.
    "cli/finetune.py:_finetune",
}


def num_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def long_functions(source: str, *, declares_options: bool = False) -> Iterator[str]:
    """Functions of more lines than allowed.

    Where parameters are the command line's options, with their help, only the body counts.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            first = node.body[0].lineno if declares_options else node.lineno
            if node.end_lineno - first + 1 > MAX_FUNCTION:
                yield node.name


def test_files_are_short() -> None:
    found = {p.relative_to(PACKAGE).as_posix() for p in FILES if num_lines(p) > MAX_FILE}
    assert found == LARGE_FILES


def test_the_commands_are_short() -> None:
    assert sum(map(num_lines, (PACKAGE / "commands").rglob("*.py"))) <= MAX_COMMANDS


def test_functions_are_short() -> None:
    found = set()
    for path in FILES:
        place = path.relative_to(PACKAGE).as_posix()
        names = long_functions(path.read_text(), declares_options=place.startswith("cli/"))
        found |= {f"{place}:{name}" for name in names}
    assert found == LONG_FUNCTIONS


@pytest.mark.parametrize("extra", [0, 1])
def test_a_planted_long_function_is_found(extra: int) -> None:
    body = "    x = 1\n" * (MAX_FUNCTION - 1 + extra)
    assert list(long_functions(f"def f() -> None:\n{body}")) == ["f"] * extra
    assert not list(long_functions(f"def f() -> None:\n{body}", declares_options=True))
    assert list(long_functions(f"class C:\n  def f(\n    self):\n{body}")) == ["f"]


MAX_POSITIONAL = 4
# Of Python's and libc's own.
TAKE_MANY = {"zip", "rename"}


def crowded_calls(source: str) -> Iterator[str]:
    """Functions and classes that are called by name with too many positional arguments."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            name = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)
            ours = isinstance(node.func, ast.Name) or (
                name.startswith("self._") and "." not in name[5:]
            )
            starred = any(isinstance(argument, ast.Starred) for argument in node.args)
            if len(node.args) > MAX_POSITIONAL and ours and not starred:
                yield name


def test_calls_name_what_they_pass() -> None:
    found = {
        f"{path.relative_to(PACKAGE).as_posix()}: {name}"
        for path in PACKAGE.rglob("*.py")
        for name in crowded_calls(path.read_text(encoding="utf-8"))
        if name not in TAKE_MANY
    }
    assert not found
    assert list(crowded_calls("f(1, 2, 3, 4, 5)\nself._f(1, 2, 3, 4, 5)\nf(1, 2, 3, 4)")) == [
        "f", "self._f",
    ]  # fmt: skip

"""The documentation is current, complete, and runs."""

import contextlib
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

import scalenet_cli
from scalenet_cli import ScalenetError, errors, parse_plan
from scalenet_cli.adapters import ADAPTERS
from scalenet_cli.cli.app import app
from scalenet_cli.families import FAMILIES
from scalenet_cli.families.decoder_configs import MODEL_TYPES
from scalenet_cli.plan.mappings import MAPPINGS
from scalenet_cli.plan.recipes import recipe_names

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
GROUP: Any = typer.main.get_command(app)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
COMMANDS: Mapping[str, Any] = GROUP.commands


@dataclass(frozen=True)
class Fence:
    """One fenced block: the words after the backticks, the text, and its line."""

    info: tuple[str, ...]
    text: str
    line: int

    @property
    def language(self) -> str:
        return self.info[0] if self.info else ""

    @property
    def commands(self) -> list[str]:
        """The scalenet commands of a console session."""
        prompts = (line for line in self.text.splitlines() if line.startswith("$ scalenet"))
        return [line.removeprefix("$ ") for line in prompts]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def fences(page: Path) -> Iterator[Fence]:
    lines = page.read_text(encoding="utf-8").splitlines()
    start: int | None = None
    for number, line in enumerate(lines):
        if line.startswith("```") and start is None:
            start = number
        elif line.startswith("```") and start is not None:
            info = tuple(lines[start].removeprefix("```").split())
            yield Fence(info, "\n".join(lines[start + 1 : number]) + "\n", start + 1)
            start = None
    assert start is None, f"{name_of(page)}:{start} opens a fence that is not closed"


def prose(page: Path) -> str:
    """The page without fenced blocks, comments and what cog generated."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"<!-- \[\[\[cog.*?\[\[\[end\]\]\] -->", "", text, flags=re.DOTALL)
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def headings(page: Path) -> list[str]:
    outside = re.sub(
        r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    return re.findall(r"^#+ (.+)$", outside, flags=re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors that Markdown hosts make of headings."""
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings(page))
    return {heading.replace(" ", "-") for heading in kept}


def test_generated_parts_are_current(monkeypatch: pytest.MonkeyPatch) -> None:
    cogapp = pytest.importorskip("cogapp")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with contextlib.redirect_stdout(None):
        status = cogapp.Cog().main(["cog", "--check", *(name_of(p) for p in DOCS.glob("*.md"))])
    assert status == 0, "run: cog -r docs/*.md"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_is_plain(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.isascii()
    assert text.endswith("\n")
    long = [line for line in prose(page).splitlines() if len(line) > 100 and "|" not in line]
    assert not long
    private = re.findall(r"/(?:tmp|work|home|root|Users)/\S*", text)
    assert not private


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CHANGELOG.md"], ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = prose(page) if page.parent == DOCS else page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"^\[\w+\]: (\S+)$", text, re.M)
    for target in targets:
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.is_file(), f"{name_of(page)} links to {target}"
        assert not anchor or anchor in anchors(found), f"{name_of(page)} links to {target}"


def test_every_page_is_on_the_map() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    assert [p.name for p in PAGES if p.relative_to(DOCS).as_posix() not in index] == ["index.md"]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_console_lines_are_commands(page: Path) -> None:
    inline = re.findall(r"`scalenet ([a-z][a-z-]*)", prose(page))
    assert set(inline) <= COMMANDS.keys()
    for fence in fences(page):
        for line in fence.commands if fence.language == "console" else ():
            _, name, *arguments = shlex.split(line)
            assert name in COMMANDS, f"{name_of(page)}:{fence.line}  {line}"
            # Fails for an option or a number of arguments that the command does not have.
            COMMANDS[name].make_context(name, arguments)


def test_the_code_hints_at_commands_that_exist() -> None:
    for path in sorted((ROOT / "scalenet_cli").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert set(re.findall(r"`scalenet ([a-z][a-z-]*)", text)) <= COMMANDS.keys(), path
        for page in re.findall(r"\bdocs/[\w/-]+\.md", text):
            assert (ROOT / page).is_file(), path


def test_hints_install_from_the_clone() -> None:
    """The package is on no index yet, and an extra that is named exists."""
    project = PROJECT["project"]
    assert errors.install_hint("data").endswith("pip install '.[data]'")
    texts = [ROOT / "README.md", *PAGES, *sorted((ROOT / "scalenet_cli").rglob("*.py"))]
    for path in texts:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"pip install[^\n`]* .?scalenet-cli\b(?!` finds)", text), path
        named = re.findall(r"""(install_hint\(["']|pip install '\.\[)([\w,-]+)""", text)
        assert {extra for _, extras in named for extra in extras.split(",")} <= set(
            project["optional-dependencies"]
        ), path


# What these pages run takes seconds, and their commands have tests of their own. CI runs the
# quickstart whole.
SLOW_PAGES = ("compare", "diagnose", "quickstart")
RUN_PAGES = [
    pytest.param(page, marks=pytest.mark.slow) if page.stem in SLOW_PAGES else page
    for page in PAGES
]


@pytest.mark.parametrize("page", RUN_PAGES, ids=name_of)
def test_a_page_runs(
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: Callable[..., Result],
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    known = {"python", "yaml", "console", "text", "sh"}
    for fence in fences(page):
        assert fence.language in known, f"{name_of(page)}:{fence.line}"
        match fence.info:
            case ("yaml", *files):
                parse_plan(fence.text, f"{name_of(page)}:{fence.line}")
                for file in files:
                    Path(file).write_text(fence.text, encoding="utf-8")
            case ("python",):
                # Numbered as in the page, so that a traceback leads there.
                source = "\n" * fence.line + fence.text
                exec(compile(source, name_of(page), "exec"), names)
            case ("console", "run" as wanted) | ("console", wanted):
                expected = 0 if wanted == "run" else int(wanted.removeprefix("exit-"))
                for line in fence.commands:
                    result = run(*shlex.split(line)[1:])
                    assert result.exit_code == expected, f"{line}\n{result.output}"


def test_errors_have_a_heading_and_their_exit_status() -> None:
    page = DOCS / "errors.md"
    classes = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, ScalenetError)
    ]
    codes = {error.code: error.exit_code for error in classes}
    assert len(codes) == len(classes), "two errors have one code"
    sections = re.findall(
        r"^## ([\w-]+)\n\nExit status (\d+)\. \S", page.read_text(encoding="utf-8"), re.M
    )
    assert {code: int(status) for code, status in sections} == codes
    assert headings(page)[1:] == list(codes), "in the order of errors.py"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_help_and_a_reference(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    assert all(parameter.help for parameter in command.params)
    page = (DOCS / "cli-reference.md").read_text(encoding="utf-8")
    section = page.split(f"## scalenet {name}\n")[1].split("\n## ")[0]
    for parameter in command.params:
        option = parameter.param_type_name == "option"
        for spelled in parameter.opts if option else [parameter.metavar]:
            assert f"`{spelled}`" in section
        if option and parameter.metavar is None and not parameter.is_flag:
            (shown,) = re.findall(rf"`{parameter.opts[-1]}` `([^`]+)` \|", section)
            assert shown.replace("\\|", "|") == placeholder(parameter), parameter.opts


def placeholder(option: Any) -> str:
    """What the command line takes as the option's value."""
    taken = option.type_descriptor
    if taken.is_choice:
        return "|".join(taken.choices)
    return {int: "INTEGER", float: "NUMBER", str: "TEXT"}[taken.annotation]


def test_help_is_printed() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert all(name in result.stdout for name in COMMANDS)


def test_public_names_are_documented_with_an_example() -> None:
    page = DOCS / "python-api.md"
    text = page.read_text(encoding="utf-8")
    assert set(scalenet_cli.__all__) < set(headings(page))
    for name in scalenet_cli.__all__:
        section = text.split(f"\n## {name}\n")[1].split("\n## ")[0]
        assert "```python\n" in section, name


def test_what_can_be_registered_is_documented() -> None:
    families = (DOCS / "families.md").read_text(encoding="utf-8")
    plans = (DOCS / "plan-format.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in families for name in FAMILIES)
    assert all(f"`{kind}`" in families for kind in MODEL_TYPES)
    assert all(f"- `{name}`: " in plans for name in MAPPINGS)
    assert all(f"| `{name}` | `" in plans for name in ADAPTERS)


def test_all_rows_of_the_paper_are_listed() -> None:
    page = (DOCS / "numbers.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(paper/\S+)` \|.*\| (yes|\*\*no\*\*) \|$", page, re.M)
    assert [name for name, _ in rows] == [n for n in recipe_names() if n.startswith("paper/")]
    explained = page.split("## Rows that do not follow")[1]
    apart = {name for name, follows in rows if follows != "yes"}
    assert len(apart) == 6
    assert set(re.findall(r"^- `(paper/\S+)`", explained, re.M)) == apart


def test_the_architecture_names_files_and_packages_that_exist() -> None:
    text = prose(DOCS / "architecture.md")
    package = ROOT / "scalenet_cli"
    named = set(re.findall(r"`([\w/]+\.py)`", text))
    assert len(named) > 60
    # Those of the last paragraph lie in the folder that it names.
    roots = (package, ROOT, package / "tasks" / "causal_lm" / "evaluation")
    assert not [name for name in named if not any((root / name).is_file() for root in roots)]

    (contract,) = PROJECT["tool"]["importlinter"]["contracts"]
    layers = [name.strip() for row in contract["layers"] for name in row.split("|")]
    assert re.findall(r"^\| `(\w+)` \|", text, re.M) == layers


def test_the_glossary_is_kept() -> None:
    assert "layer_map" in (DOCS / "glossary.md").read_text(encoding="utf-8")
    forbidden = re.compile(r"\blayer_map\b|\bvirtual layers?\b|\bcfg\b", re.IGNORECASE)
    for path in sorted((ROOT / "scalenet_cli").rglob("*.py")):
        assert not forbidden.search(path.read_text(encoding="utf-8")), path


def test_the_changelog_is_of_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d{2}-\d{2}$", text, re.M)
    assert released[0] == scalenet_cli.__version__ == PROJECT["project"]["version"]

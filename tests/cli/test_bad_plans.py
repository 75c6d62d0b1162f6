"""Plans with mistakes that need no model to be seen: keys, values, types."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.helpers import USAGE, Run, refuse, short

BASE = "version: 1\nmapping: interpolate\nfactor: 2\n"
PlanFile = Callable[[str], Path]


def refuse_plan(run: Run, folder: Path, plan: Path, code: str, *says: str) -> str:
    """`check` and `expand` refuse the plan in the same words; `expand` looks at nothing else."""
    message = refuse(run, folder, "check", plan, status=USAGE, code=code, says=says)
    arguments = ("expand", folder / "no-checkpoint.pth", "--plan", plan, "-o", folder / "out")
    assert refuse(run, folder, *arguments, status=USAGE, code=code) == message
    return message


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("text", "line", "key", "nearest"),
    [
        ("version: 1\nmappin: stack\nfactor: 2\n", 2, "mappin", "mapping"),
        (BASE + "adaptor: {dim: 4}\n", 4, "adaptor", "adapter"),
        (BASE + "shared:\n  weight: tied\n", 5, "shared.weight", "weights"),
        (BASE + "shared:\n  scope: {stage: [0]}\n", 5, "shared.scope.stage", "stages"),
        (BASE + "shared:\n  scope: {block: [0]}\n", 5, "shared.scope.block", "blocks"),
        ("version: 1\nmapping: {source: [0]}\n", 2, "mapping.source", "sources"),
        (BASE + "adapter:\n  type: lora\n  rank: 4\n  dims: 4\n", 7, "adapter.dims", "dim"),
        (BASE + "adapter:\n  type: lora\n  activatio: gelu\n", 6, "adapter.activatio", "dim"),
        (BASE + "adapter: {type: none, dim: 4}\n", 4, "adapter.dim", "type"),
        ("title: t\nsource: s\nplan:\n  version: 1\n  mapping: stack\n  factr: 2\n", 6,
         "plan.factr", "factor"),
        ("titel: t\nsource: s\nplan:\n  version: 1\n  mapping: stack\n  factor: 2\n", 1,
         "titel", "title"),
        ("title: t\nsource: s\nplan:\n  version: 1\n  mapping: stack\n  factor: 2\n"
         "expect: {store: 1, new_blocks: 2}\n", 7, "expect.store", "stored"),
    ],
    ids=short,
)  # fmt: skip
def test_a_misspelled_key_comes_with_line_path_and_nearest_name(
    run: Run, tmp_path: Path, plan_file: PlanFile, text: str, line: int, key: str, nearest: str
) -> None:
    plan = plan_file(text)
    name = key.rpartition(".")[2]
    refuse_plan(
        run, tmp_path, plan, "plan-schema",
        f"unknown key `{name}`", f"where: {plan}:{line}  {key}\n", nearest,
    )  # fmt: skip


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("text", "line", "path", "given", "nearest"),
    [
        ("version: 1\nmapping: interpolat\nfactor: 2\n", 2, "mapping", "interpolat", "interpolate"),
        (BASE + "start: identiy\n", 4, "start", "identiy", "identity"),
        (BASE + "train: [norm]\n", 4, "train[0]", "norm", "norms"),
        (BASE + "train: adapter\n", 4, "train", "adapter", "[adapters]"),
        (BASE + "shared: {weights: tie}\n", 4, "shared.weights", "tie", "tied"),
        (BASE + "shared: {norms: untide}\n", 4, "shared.norms", "untide", "untied"),
        (BASE + "shared: {scope: last_stage}\n", 4, "shared.scope", "last_stage", "last-stage"),
        (BASE + "adapter:\n  dim: 4\n  type: paralel\n", 6, "adapter.type", "paralel", "parallel"),
        (BASE + "adapter: {targets: atention}\n", 4, "adapter.targets", "atention", "attention"),
        (BASE + "adapter: {instances: newest}\n", 4, "adapter.instances", "newest", "new"),
        (BASE + "adapter: {activation: glu}\n", 4, "adapter.activation", "glu", "gelu"),
    ],
    ids=short,
)  # fmt: skip
def test_a_misspelled_value_comes_with_line_path_and_nearest_name(
    run: Run, tmp_path: Path, plan_file: PlanFile, text: str, line: int, path: str, given: str,
    nearest: str,
) -> None:  # fmt: skip
    plan = plan_file(text)
    refuse_plan(
        run, tmp_path, plan, "plan-schema", f"{plan}:{line}  {path}", f"'{given}'", f"`{nearest}`"
    )


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("version: 2\nmapping: stack\nfactor: 2\n", "1  version", "2"),
        ("version: '1'\nmapping: stack\nfactor: 2\n", "1  version", "'1'"),
        ("version: true\nmapping: stack\nfactor: 2\n", "1  version", "True"),
        ("version: 1\nmapping: stack\nfactor: 0.5\n", "3  factor", "0.5"),
        ("version: 1\nmapping: stack\nfactor: 0\n", "3  factor", "0"),
        ("version: 1\nmapping: stack\nfactor: -2\n", "3  factor", "-2"),
        ("version: 1\nmapping: stack\nfactor: .nan\n", "3  factor", "nan"),
        ("version: 1\nmapping: stack\nfactor: .inf\n", "3  factor", "inf"),
        ("version: 1\nmapping: stack\nfactor: 1e400\n", "3  factor", "inf"),
        ("version: 1\nmapping: stack\nfactor: true\n", "3  factor", "number"),
        ("version: 1\nmapping: stack\nfactor: two\n", "3  factor", "'two'"),
        ("version: 1\nmapping: stack\nfactor: [2]\n", "3  factor", "number"),
        ("version: 1\nmapping: stack\nfactor: 2001-01-01\n", "3  factor", "number"),
        ("version: 1\nmapping: stack\ndepth: 0\n", "3  depth", "0"),
        ("version: 1\nmapping: stack\ndepth: 2.5\n", "3  depth", "2.5"),
        ("version: 1\nmapping: stack\ndepth: 5000\n", "3  depth", "4096"),
        ("version: 1\nmapping: 3\nfactor: 2\n", "2  mapping", "3"),
        ("version: 1\nmapping: [0, 1]\nfactor: 2\n", "2  mapping", ""),
        ("version: 1\nmapping:\nfactor: 2\n", "2  mapping", ""),
        ("version: 1\nmapping: {}\n", "2  mapping", "`sources` is missing"),
        ("version: 1\nmapping: {sources: []}\n", "2  mapping.sources", "empty"),
        ("version: 1\nmapping: {sources: [0, -1]}\n", "2  mapping.sources[1]", "-1"),
        ("version: 1\nmapping: {sources: [0, [1]]}\n", "2  mapping.sources", "mix"),
        ("version: 1\nmapping: {sources: [[0], []]}\n", "2  mapping.sources", "1 to 4096"),
        ("version: 1\nmapping: {sources: [0, true]}\n", "2  mapping.sources[1]", "number"),
        (BASE + "shared: tied\n", "4  shared", "'tied'"),
        (BASE + "shared: {scope: {stages: []}}\n", "4  shared.scope.stages", "empty"),
        (BASE + "shared: {scope: {stages: [-1]}}\n", "4  shared.scope.stages[0]", "-1"),
        (BASE + "shared: {scope: {stages: 3}}\n", "4  shared.scope.stages", "3"),
        (BASE + "shared: {scope: {stages: [0], blocks: [0]}}\n", "4  shared.scope", ""),
        (BASE + "adapter: 16\n", "4  adapter", "{type: parallel, dim: 16}"),
        (BASE + "adapter: [16]\n", "4  adapter", "{type: parallel, dim: 16}"),
        (BASE + "adapter: {type: [lora]}\n", "4  adapter", "parallel, lora, none"),
        (BASE + "adapter: {dim: 0}\n", "4  adapter.dim", "0"),
        (BASE + "adapter: {dim: 1.5}\n", "4  adapter.dim", "1.5"),
        (BASE + "adapter: {dim: yes}\n", "4  adapter.dim", "number"),
        (BASE + "adapter: {targets: []}\n", "4  adapter.targets", "empty"),
        (BASE + "adapter: {targets: [1]}\n", "4  adapter.targets[0]", "1"),
        (BASE + "adapter: {targets: {mlp: 1}}\n", "4  adapter.targets", ""),
        (BASE + "train: 5\n", "4  train", "5"),
        (BASE + "train: {norms: true}\n", "4  train", ""),
        (BASE + "drop_path: 1\n", "4  drop_path", "1"),
        (BASE + "drop_path: -0.1\n", "4  drop_path", "-0.1"),
        (BASE + "drop_path: half\n", "4  drop_path", "'half'"),
        (BASE + "drop_path: .nan\n", "4  drop_path", "nan"),
        (BASE + '"two\\nlines": x\n', "4", "two"),
        (BASE + '"\\e]0;title\\a": x\n', "4", "unknown key"),
        (BASE + '"\\ud800": x\n', "", ""),
        (BASE + 'start: "\\ud800"\n', "4", "start"),
        (BASE + f"{'k' * 100}: {'v' * 5000}\nstart: {'v' * 5000}\n", "5  start", ""),
    ],
    ids=short,
)  # fmt: skip
def test_a_value_out_of_range_or_of_the_wrong_type_is_refused_at_its_line(
    run: Run, tmp_path: Path, plan_file: PlanFile, text: str, place: str, says: str
) -> None:
    plan = plan_file(text)
    refuse_plan(run, tmp_path, plan, "plan-schema", f"{plan}:{place}", says)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("on: x", "put such a key in quotes"),
        ("1: x", "not a text"),
        ("null: x", "not a text"),
        (f"depth: 1{'0' * 400}", ""),
        (f"depth: 1{'0' * 5000}", ""),
        (f"depth: 0x{'f' * 5000}", ""),
    ],
    ids=short,
)
def test_a_key_that_is_no_text_and_a_number_without_end(
    run: Run, tmp_path: Path, plan_file: PlanFile, entry: str, says: str
) -> None:
    plan = plan_file(f"version: 1\nmapping: stack\n{entry}\n")
    refuse_plan(run, tmp_path, plan, "plan-syntax", f"where: {plan}:3", says)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("version: 1\nmapping: stack\n", "exactly one of factor and depth"),
        ("version: 1\nmapping: stack\nfactor: 2\ndepth: 6\n", "exactly one of factor and depth"),
        ("version: 1\nmapping: {sources: [0, 0]}\nfactor: 2\n", "fix the depth"),
        ("mapping: stack\nfactor: 2\n", "the key `version` is missing"),
        ("version: 1\nfactor: 2\n", "the key `mapping` is missing"),
        ("source: s\nplan:\n  version: 1\n  mapping: stack\n  factor: 2\n", "`title` is missing"),
        ("title: t\nsource: s\nplan: quickstart/x2\n", "plan"),
        ("- version: 1\n", "not a list"),
        ("version 1\n", "not a text"),
        ("3\n", "not a int"),
    ],
    ids=short,
)  # fmt: skip
def test_what_does_not_belong_together_is_refused(
    run: Run, tmp_path: Path, plan_file: PlanFile, text: str, says: str
) -> None:
    plan = plan_file(text)
    refuse_plan(run, tmp_path, plan, "plan-schema", f"where: {plan}:", says)


def test_all_mistakes_of_a_plan_come_at_once_in_the_order_of_the_lines(
    run: Run, tmp_path: Path, plan_file: PlanFile
) -> None:
    plan = plan_file(
        "version: 1\n"
        "mapping: stak\n"
        "factor: 0.5\n"
        "shared:\n"
        "  weight: tied\n"
        "  norms: both\n"
        "adapter:\n"
        "  dim: -4\n"
        "strat: copy\n"
        "drop_path: 2\n"
    )
    message = refuse_plan(run, tmp_path, plan, "plan-schema", "`stack`", "`weights`", "`start`")
    lines = [line for line in message.splitlines() if "where:" in line]
    paths = ("mapping", "factor", "shared.weight", "shared.norms", "adapter.dim", "strat",
             "drop_path")  # fmt: skip
    numbers = (2, 3, 5, 6, 8, 9, 10)
    expected = [f"  where: {plan}:{n}  {path}" for n, path in zip(numbers, paths, strict=True)]
    assert lines == expected


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        (BASE + "factor: 3\n", "factor", (3, 4)),
        (BASE + "'factor': 3\n", "factor", (3, 4)),
        (BASE + "adapter:\n  dim: 4\n  dim: 8\n", "dim", (5, 6)),
        (BASE + "adapter: {dim: 4,\n dim: 8}\n", "dim", (4, 5)),
        (BASE + "shared:\n  scope:\n    blocks: [0]\n    blocks: [1]\n", "blocks", (6, 7)),
        ("version: 1\nmapping:\n  sources: [0]\n  sources: [0, 0]\n", "sources", (3, 4)),
    ],
    ids=short,
)  # fmt: skip
def test_a_key_that_stands_twice_is_refused_with_both_lines(
    run: Run, tmp_path: Path, plan_file: PlanFile, text: str, key: str, lines: tuple[int, int]
) -> None:
    plan = plan_file(text)
    said = f"the key `{key}` stands twice, in line {lines[0]} and line {lines[1]}"
    refuse_plan(run, tmp_path, plan, "plan-syntax", said, f"{plan}:{lines[1]}", "hint:")


def test_every_repeated_key_is_reported(run: Run, tmp_path: Path, plan_file: PlanFile) -> None:
    plan = plan_file(BASE + "factor: 3\nadapter:\n  dim: 4\n  dim: 8\nversion: 1\n")
    message = refuse_plan(run, tmp_path, plan, "plan-syntax")
    places = [line for line in message.splitlines() if "where:" in line]
    assert places == [f"  where: {plan}:{line}" for line in (4, 7, 8)]


def test_numbers_in_the_notation_of_yaml_1_2_are_numbers(
    run: Run, tmp_path: Path, plan_file: PlanFile
) -> None:
    result = run("check", plan_file("version: 1\nmapping: stack\nfactor: 2e0\ndrop_path: 1e-4\n"))
    assert (result.exit_code, result.stderr) == (0, "")

"""Plans that are no YAML, want to be more than YAML, or are too much of it."""

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scalenet_cli.errors import PlanError
from scalenet_cli.plan.load import parse_plan
from scalenet_cli.plan.yaml_text import dump_yaml
from tests.cli.helpers import USAGE, Run, child, refuse, short
from tests.cli.test_bad_plans import BASE, refuse_plan

PlanFile = Callable[..., Path]


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("version: 1\nmapping: [stack\nfactor: 2\n", 3, "not valid YAML"),
        ("version: 1\n\tmapping: stack\n", 2, "not valid YAML"),
        ("version: 1\nmapping: stack: 2\n", 2, "not valid YAML"),
        (BASE + "---\n" + BASE, 4, "document"),
        (BASE + "shared: *unknown\n", 4, "unknown"),
        ("%YAML 3.0\n---\n" + BASE, 1, "version"),
        (BASE + "? [complex, key]\n: 1\n", 4, "key"),
        (BASE + "? {complex: key}\n: 1\n", 4, "key"),
        (BASE + "start: !!python/object/apply:os.system ['echo']\n", 4, "python"),
        (BASE + "start: !!python/name:os.system\n", 4, "python"),
        (BASE + "start: !!python/object/new:subprocess.Popen [[id]]\n", 4, "python"),
        (BASE + "start: !custom x\n", 4, "!custom"),
        (BASE + "start: !!bool perhaps\n", 4, ""),
        (BASE + "start: !!int ''\n", 4, ""),
        (BASE + "start: !!int many\n", 4, ""),
        (BASE + "start: !!float ''\n", 4, ""),
        (BASE + "start: !!float many\n", 4, ""),
        (BASE + "start: !!timestamp today\n", 4, ""),
        (BASE + "start: 2001-99-99\n", 4, ""),
        (BASE + "start: !!binary x\n", 4, ""),
        (BASE + "start: !!set [a]\n", 4, ""),
        (BASE + "start: !!omap {a: b}\n", 4, ""),
        (BASE + f"start: {'9' * 5000}\n", 4, ""),
        (BASE + "start: =\n", 4, ""),
        (BASE + "<<: 3\n", 4, ""),
        (BASE + "start: \x01\n", 4, "special characters"),
        (BASE + "start: \x00\n", 4, "special characters"),
    ],
    ids=short,
)
def test_text_that_is_not_plain_yaml_is_refused_at_its_line(
    run: Run, tmp_path: Path, plan_file: PlanFile, text: str, line: int, says: str
) -> None:
    plan = plan_file(text)
    refuse_plan(run, tmp_path, plan, "plan-syntax", f"where: {plan}:{line}", says)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "plan-syntax"),
        ("\n\n", "plan-syntax"),
        ("# nothing\n", "plan-syntax"),
        ("---\n", "plan-schema"),
    ],
)
def test_an_empty_plan_is_refused(
    run: Run, tmp_path: Path, plan_file: PlanFile, text: str, code: str
) -> None:
    plan = plan_file(text)
    refuse_plan(run, tmp_path, plan, code, f"where: {plan}")


def _laughs(levels: int) -> str:
    grown = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(["a0: &a0 [x, x, x, x, x, x, x, x, x]", *grown, ""])


def _merges(levels: int) -> str:
    grown = [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, levels)]
    return "\n".join(["a0: &a0 {x: 1}", *grown, ""])


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("text", "says"),
    [
        (_laughs(9), "more than 20000 entries, aliases included"),
        (_merges(9), "more than 20000 entries, aliases included"),
        ("loop: &loop [*loop]\n", "nested more than 24 levels deep"),
        ("loop: &loop {again: *loop}\n", "nested more than 24 levels deep"),
        ("deep: " + "[" * 40 + "]" * 40 + "\n", "nested more than 24 levels deep"),
        ("deep: " + "[" * 50_000 + "\n", "nested more than 24 levels deep"),
        ("deep: " + "{a: " * 50_000 + "\n", "nested more than 24 levels deep"),
        ("- " * 100_000 + "\n", "nested more than 24 levels deep"),
        ("wide: [" + "1," * 25_000 + "1]\n", "more than 20000 entries"),
    ],
    ids=short,
)
def test_a_yaml_bomb_is_refused_before_it_grows(
    run: Run, tmp_path: Path, plan_file: PlanFile, text: str, says: str
) -> None:
    plan = plan_file(text)
    started = time.process_time()
    refuse(run, tmp_path, "check", plan, status=USAGE, code="plan-syntax", says=(says,))
    assert time.process_time() - started < 5


def test_a_plan_that_is_too_large_is_refused_unread(
    run: Run, tmp_path: Path, plan_file: PlanFile
) -> None:
    plan = plan_file(BASE)
    os.truncate(plan, 2**40)
    says = ("256 KiB", f"where: {plan}")
    refuse(run, tmp_path / "none", "check", plan, status=USAGE, code="plan-unreadable", says=says)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/zero and a limit on memory")
def test_a_plan_without_end_is_refused(tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**29, 2**29))\n"
    ended = child("check", "/dev/zero", prelude=limit)
    assert "Traceback" not in ended.stderr
    assert ended.stderr.startswith("error[plan-")
    assert ended.returncode == USAGE


def test_a_plan_may_come_through_a_pipe(run: Run, tmp_path: Path) -> None:
    pipe = tmp_path / "plan"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(BASE,))
    writer.start()
    result = run("check", pipe)
    writer.join()
    assert result.exit_code == 0


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe" + BASE.encode("utf-16-le"), b"title: caf\xe9\n", b"\x89PNG\r\n\x1a\n\x00\x00"],
    ids=["utf-16", "latin-1", "png"],
)
def test_a_plan_that_is_not_utf_8_is_refused(run: Run, tmp_path: Path, content: bytes) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_bytes(content)
    refuse_plan(run, tmp_path, plan, "plan-unreadable", f"where: {plan}", "utf-8")


def test_a_plan_that_is_missing_or_a_folder_is_refused(run: Run, tmp_path: Path) -> None:
    says = ("no such plan file", "scalenet recipes")
    missing = tmp_path / "missing.yaml"
    refuse_plan(run, tmp_path, missing, "plan-unreadable", f"where: {missing}", *says)
    folder = tmp_path / "folder.yaml"
    folder.mkdir()
    refuse_plan(run, tmp_path, folder, "plan-unreadable", f"where: {folder}", "irectory")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("quickstart/x3", "quickstart/x2"),
        ("no-such-recipe", "scalenet recipes"),
        ("../recipes/quickstart/x2", "scalenet recipes"),
        ("x" * 5000, "File name too long"),
        ("x" * 5000 + ".yaml", "File name too long"),
    ],
    ids=short,
)
def test_an_unknown_recipe_is_refused_with_the_nearest_names(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code = "plan-unreadable" if len(name) > 1000 else "unknown-recipe"
    refuse(run, tmp_path, "check", name, status=USAGE, code=code, says=(says,))


YAMLISH = st.text(st.sampled_from(list("vmsfdat:1.-[]{}&*!|>?'\"#%@,\n \t~=<\ue000")))
ENTRIES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["sources", "scope", "stages", "blocks", "type", "dim", "targets"])
            | st.integers(),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)
KEYS = st.sampled_from(
    ["version", "mapping", "factor", "depth", "shared", "adapter", "start", "train", "drop_path"]
)


def _parse(text: str) -> None:
    """A PlanError; or a plan, which written out is the same plan."""
    try:
        plan = parse_plan(text).plan
    except PlanError:
        return
    assert parse_plan(dump_yaml(plan.model_dump(mode="json"))).plan == plan


@given(text=st.text() | YAMLISH)
@settings(max_examples=100, deadline=None)
def test_any_text_is_a_plan_or_a_plan_error(text: str) -> None:
    _parse(text)


@given(entries=st.dictionaries(KEYS, ENTRIES, max_size=5))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_entries_are_a_plan_or_a_plan_error(entries: dict[str, object]) -> None:
    import yaml

    _parse(yaml.safe_dump(entries, allow_unicode=True))

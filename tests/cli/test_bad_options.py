"""Thresholds that are no numbers or are missed, and command lines that make no sense."""

from pathlib import Path

import pytest

from tests.cli.helpers import THRESHOLD, USAGE, Run, refuse, short, write_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle"))


THRESHOLDS = [("count-params", "--max-params"), ("flops", "--max-macs")]


@pytest.mark.sample(5)
@pytest.mark.parametrize(
    "amount",
    ["", " ", "x", "90X", "90MM", "M", "-5", "+5", "1e6", "nan", "inf", "1,000", "1.", ".5",
     "1.5.2M", "0x10", "9" * 400, "9" * 400 + "M", "9" * 5000, "90M\nM",
     "\N{ARABIC-INDIC DIGIT FIVE}", "\N{SUPERSCRIPT TWO}"],
    ids=short,
)  # fmt: skip
@pytest.mark.parametrize(("command", "option"), THRESHOLDS)
def test_a_threshold_that_is_no_amount(
    run: Run, bundle: Path, command: str, option: str, amount: str
) -> None:
    arguments = (command, bundle, f"{option}={amount}")
    says = (option, "90M, 1.5G or 4000")
    refuse(run, bundle, *arguments, status=USAGE, code="option", says=says)


@pytest.mark.parametrize(("command", "option"), THRESHOLDS)
def test_a_malformed_threshold_is_told_before_anything_is_read(
    run: Run, tmp_path: Path, command: str, option: str
) -> None:
    arguments = (command, tmp_path / "missing", option, "many")
    refuse(run, tmp_path, *arguments, status=USAGE, code="option", says=(option,))


@pytest.mark.parametrize(
    ("command", "option", "found"),
    [("count-params", "--max-params", "48,549"), ("flops", "--max-macs", "1,")],
)
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_a_missed_threshold_gives_the_report_both_numbers_and_status_4(
    run: Run, bundle: Path, command: str, option: str, found: str, as_json: bool
) -> None:
    extra = ("--json",) if as_json else ()
    result = run(command, bundle, option, "1K", *extra)
    assert result.exit_code == THRESHOLD
    assert result.stdout == run(command, bundle, *extra).stdout
    assert result.stderr.startswith(f"error[threshold-missed]: {found}")
    assert f"{option} allows 1,000" in result.stderr
    assert run(command, bundle, option, "1G", *extra).exit_code == 0


def test_a_threshold_is_kept_when_it_is_met_exactly(run: Run, bundle: Path) -> None:
    assert run("count-params", bundle, "--max-params", "48549").exit_code == 0
    assert run("count-params", bundle, "--max-params", "48548").exit_code == THRESHOLD


@pytest.mark.parametrize("size", ["0", "-16", "many", "1", "1000000000", "9" * 30])
def test_an_input_size_that_cannot_be(run: Run, bundle: Path, size: str) -> None:
    result = run("flops", bundle, "--input-size", size)
    assert (result.exit_code, result.stdout) == (USAGE, ""), repr(result.exception)
    assert "--input-size" in result.stderr or f"input size {size}" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("unknown-command",),
        ("expand",),
        ("expand", "x.pth"),
        ("expand", "x.pth", "--plan", "p.yaml"),
        ("expand", "x.pth", "--plan"),
        ("expand", "x.pth", "y.pth", "--plan", "p.yaml", "-o", "out"),
        ("expand", "x.pth", "--plan", "p.yaml", "-o", "out", "--seed", "-1"),
        ("expand", "x.pth", "--plan", "p.yaml", "-o", "out", "--seed", "x"),
        ("expand", "x.pth", "--plan", "p.yaml", "-o", "out", "--froce"),
        ("count-params",),
        ("verify", "--no-such-option"),
    ],
    ids=short,
)
def test_a_command_line_that_makes_no_sense(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (USAGE, "")
    assert "Error" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_the_json_of_a_pipeline_empty(run: Run, tmp_path: Path) -> None:
    for command in ("inspect", "count-params", "flops", "verify", "check"):
        result = run(command, tmp_path / "missing.yaml", "--json")
        assert (result.exit_code in (2, 3), result.stdout) == (True, "")
        assert "error[" in result.stderr

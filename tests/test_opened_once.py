"""A command opens its target once: one manifest read, one surgery, one look for plan problems.

Not yet: `diagnose`, and `eval` on the command line, read the manifest once before, for the task.
"""

from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import scalenet_cli
from scalenet_cli.models import describe
from tests.cli.helpers import Run
from tests.training.runs import PLAIN, expand_case, tiny_case, train, write_bundle, write_data


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a file was read, by its folder's and its own name, and what surgery was asked."""
    counts: Counter[str] = Counter()

    def count(module: Any, name: str, label: Callable[..., str]) -> None:
        original = getattr(module, name)

        def counting(*args: Any, **options: Any) -> Any:
            counts[label(*args)] += 1
            return original(*args, **options)

        monkeypatch.setattr(module, name, counting)

    count(Path, "read_bytes", lambda path: f"{path.parent.name}/{path.name}")
    count(describe, "expand", lambda *_: "surgeries")
    count(describe, "plan_problems", lambda *_: "plan checks")
    surgery = import_module("scalenet_cli.surgery.expand")
    count(surgery, "plan_problems", lambda *_: "plan checks")
    return counts


def test_expand(counted: Counter[str], tmp_path: Path) -> None:
    expand_case(tiny_case("vit"), tmp_path / "out")
    assert (counted["surgeries"], counted["plan checks"]) == (1, 1)
    assert counted["out/manifest.json"] == 0


def test_finetune(tmp_path: Path, counted: Counter[str]) -> None:
    bundle, data = write_bundle(tmp_path / "bundle"), write_data(tmp_path / "data")
    counted.clear()
    train(bundle, data, tmp_path / "run", {**PLAIN, "epochs": 1})
    assert counted["bundle/manifest.json"] == 1
    assert counted["surgeries"] == 1
    assert counted["plan checks"] == 1


COMMANDS = [
    "load", "verify", "evaluate", "inspect", "flops", "bench", "count_params", "diagnose", "eval",
]  # fmt: skip
READ_TWICE = {"diagnose", "eval"}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_bundle(command: str, tmp_path: Path, counted: Counter[str], run: Run) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    counted.clear()
    match command:
        case "evaluate":
            data, how = write_data(tmp_path / "data"), scalenet_cli.EvalOptions(workers=0)
            scalenet_cli.evaluate(bundle, data, how=how)
        case "eval":
            data = write_data(tmp_path / "data")
            found = run("eval", bundle, "--data", data, "--workers", 0, "--device", "cpu")
            assert found.exit_code == 0, found.stderr
        case "diagnose":
            how = scalenet_cli.DiagnoseOptions(limit=2, skip="none", depths=1, device="cpu")
            scalenet_cli.diagnose(bundle, write_data(tmp_path / "data"), how=how)
        case "bench":
            scalenet_cli.bench(str(bundle), how=scalenet_cli.BenchOptions(repeats=1, warmup=0))
        case "inspect" | "flops" | "count_params":
            getattr(scalenet_cli, command)(str(bundle))
        case _:
            getattr(scalenet_cli, command)(bundle)
    assert counted["bundle/manifest.json"] == (2 if command in READ_TWICE else 1)
    # bench builds variants of its own, without going through a target.
    assert counted["surgeries"] == (0 if command in ("flops", "count_params") else 1)

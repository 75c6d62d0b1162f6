"""Several ranks compute what one process computes with the same global batch."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from scalenet_cli import load
from scalenet_cli.training.loop import Reporter
from tests.training.children import Server, as_rank, free_port
from tests.training.runs import (
    BOUND,
    COMPARABLE,
    InterruptAt,
    largest_difference,
    losses,
    metrics,
    parameters_of,
    state_of,
    train,
    write_bundle,
    write_data,
)

SHORT = {**COMPARABLE, "ema_decay": 0.9, "eval_epochs": 1, "save_steps": 3}


def one_rank(rank: int, num_ranks: int, port: int, *arguments: Any, **named: Any) -> None:
    with as_rank(rank, num_ranks, port):
        train(*arguments, **named)


def on_ranks(
    server: Server, bundle: Path, data: Path, run: Path, recipe: Mapping[str, Any],
    ranks: int, sharding: str, reporter: Reporter | None = None,
) -> list[int]:  # fmt: skip
    """A run of several gloo ranks, each a process; their exit statuses. It goes on with a run."""
    port = free_port()
    children = [
        server.start(
            run.with_suffix(f".log{rank}"), one_rank, rank, ranks, port, bundle, data, run,
            recipe, sharding=sharding, reporter=reporter, resume=run.exists(),
        )
        for rank in range(ranks)
    ]  # fmt: skip
    return [child.wait() for child in children]


def assert_equal_runs(one: Path, other: Path) -> None:
    """Losses, evaluations, training state and the resulting models are equal within the bound."""
    assert losses(one) == pytest.approx(losses(other), abs=BOUND, rel=0)
    for mine, theirs in zip(metrics(one), metrics(other), strict=True):
        assert mine == pytest.approx(theirs, abs=10 * BOUND, rel=BOUND)
    for mine, theirs in (
        (state_of(one), state_of(other)),
        (parameters_of(load(one / "last")), parameters_of(load(other / "last"))),
    ):
        difference, key = largest_difference(mine, theirs)
        assert difference < BOUND, key


@pytest.fixture(scope="module")
def swin(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bundle and data of its size."""
    folder = tmp_path_factory.mktemp("swin")
    return write_bundle(folder / "bundle", "swin"), write_data(folder / "data", size=32)


@pytest.mark.parametrize("sharding", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_two_ranks_equal_one_process(
    server: Server, bundle: Path, data: Path, tmp_path: Path, sharding: str
) -> None:
    train(bundle, data, tmp_path / "one", SHORT)
    assert on_ranks(server, bundle, data, tmp_path / "two", SHORT, 2, sharding) == [0, 0]
    assert_equal_runs(tmp_path / "one", tmp_path / "two")


CASES = [
    ("swin", "ddp", {}),
    ("swin", "fsdp", {}),
    ("swin", "fsdp", {"train": "all"}),
    ("vit", "ddp", {"train": "all"}),
    ("vit", "fsdp", {"train": "all"}),
    ("vit", "ddp", {"accumulate": 2}),
    ("vit", "fsdp", {"accumulate": 2, "train": "all"}),
    ("vit", "ddp", {"layer_decay": 0.7, "train": "all"}),
    ("vit", "fsdp", {"layer_decay": 0.7, "train": "all", "opt": "sgd", "opt_eps": None}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sharding", "changes"), CASES)
def test_two_ranks_equal_one_process_on_every_path(
    server: Server, swin: tuple[Path, Path], bundle: Path, data: Path, tmp_path: Path,
    name: str, sharding: str, changes: Mapping[str, Any],
) -> None:  # fmt: skip
    chosen = swin if name == "swin" else (bundle, data)
    recipe = {**SHORT, **changes}
    train(*chosen, tmp_path / "one", recipe)
    assert on_ranks(server, *chosen, tmp_path / "two", recipe, 2, sharding) == [0, 0]
    assert_equal_runs(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 4)])
def test_run_goes_on_with_another_number_of_ranks(
    server: Server, bundle: Path, data: Path, tmp_path: Path,
    sharding: str, before: int, after: int,
) -> None:  # fmt: skip
    recipe = {**SHORT, "train": "all"}
    train(bundle, data, tmp_path / "one", recipe)
    run = tmp_path / "run"
    statuses = on_ranks(server, bundle, data, run, recipe, before, sharding, InterruptAt(7))
    assert 0 not in statuses
    assert [path.name for path in run.glob("state-*")] == ["state-000000006"]
    assert on_ranks(server, bundle, data, run, recipe, after, sharding) == [0] * after
    assert_equal_runs(tmp_path / "one", run)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_torchrun_equals_one_process(
    bundle: Path, data: Path, tmp_path: Path, sharding: str
) -> None:
    """As people start it; with checkpointed gradients and workers too."""
    recipe = {**SHORT, "train": "all", "gradient_checkpointing": True}
    train(bundle, data, tmp_path / "one", recipe)
    settings = [f"--set={key}={json.dumps(value)}" for key, value in recipe.items()]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m",
        "scalenet_cli", "finetune", str(bundle), "--data", str(data), "-o", str(tmp_path / "two"),
        "--device", "cpu", "--workers", "1", "--sharding", sharding, *settings,
    ]  # fmt: skip
    subprocess.run(command, check=True, timeout=300)
    assert_equal_runs(tmp_path / "one", tmp_path / "two")

"""``scalenet bench``: tables for people, JSON for pipelines, one clear error for all else."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import Result

from tests.cli.helpers import USAGE, refuse, write_bundle
from tests.conftest import VIT_OPTIONS
from tests.models import tiny_case

Run = Callable[..., Result]
QUICK = ("--device", "cpu", "--batch-size", 2, "--repeats", 2, "--warmup", 0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("decoder")
    tiny_case("llama_tied").model.to(torch.bfloat16).save_pretrained(path)
    return path


@pytest.mark.slow
def test_a_bundle_and_its_source_with_the_plan_are_the_same_models(
    bundle: Path, vit_checkpoint: Path, run: Run, plan_file: Callable[..., Path]
) -> None:
    of_bundle = run("bench", bundle, "--json", *QUICK)
    of_plan = run("bench", vit_checkpoint, "--plan", plan_file(), *VIT_OPTIONS, "--json", *QUICK)
    assert of_bundle.exit_code == of_plan.exit_code == 0, of_bundle.stderr + of_plan.stderr
    one, other = json.loads(of_bundle.stdout), json.loads(of_plan.stdout)
    for kind in ("inference", "training"):
        for mine, theirs in zip(one[kind]["variants"], other[kind]["variants"], strict=True):
            for key in ("name", "stored", "trainable", "flops", "memory"):
                assert mine[key] == theirs[key]
    assert one["input_size"] == 16
    assert (one["batch_size"], one["repeats"], one["warmup"]) == (2, 2, 0)


@pytest.mark.slow
def test_tables(bundle: Path, run: Run) -> None:
    result = run("bench", bundle, *QUICK, "--precision", "bf16", "--channels-last")
    assert result.exit_code == 0, result.stderr
    for text in ("2 x 16 pixels, bf16, channels last, on cpu", "scaled / untied", "activations"):
        assert text in result.stdout
    brief = run("bench", bundle, *QUICK, "--inference-only").stdout
    assert "inference " in brief
    assert "training step" not in brief


@pytest.mark.slow
def test_a_language_model(decoder: Path, run: Run, plan_file: Callable[..., Path]) -> None:
    arguments = ("bench", decoder, "--plan", plan_file(), *QUICK, "--input-size", 9, "--json")
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["input_size"], report["unit"]) == (9, "tokens")
    base, scaled, floor, untied = report["training"]["variants"]
    # The head is the embedding: one tensor in every variant, in float32 whatever the source has.
    blocks = base["stored"] - 64 * 32 - 32
    assert untied["stored"] == base["stored"] + blocks
    assert base["memory"]["parameter_bytes"] == 4 * base["stored"]
    assert floor["trainable"] < scaled["trainable"] < base["trainable"] < untied["trainable"]


def test_a_run_is_its_best_bundle(bundle: Path, run: Run, tmp_path: Path) -> None:
    run_folder = tmp_path / "run"
    shutil.copytree(bundle, run_folder / "best")
    result = run("bench", run_folder, *QUICK, "--inference-only", "--json")
    variants = json.loads(result.stdout)["inference"]["variants"]
    assert [row["name"] for row in variants] == ["base", "scaled", "floor", "untied"]


def test_threads_and_random_numbers_stay_as_they_were(bundle: Path, run: Run) -> None:
    before, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(2)
    try:
        result = run("bench", bundle, *QUICK, "--threads", 1, "--train-only", "--json")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    report = json.loads(result.stdout)
    assert (report["threads"], report["inference"]) == (1, None)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--inference-only", "--train-only"), ("nothing to measure",)),
        (("--batch-size", 2**20), ("does not fit into the memory", "lower --batch-size")),
        (("--input-size", 1), ("1",)),
        (("--arch", "vit_tiny_patch16_224"), ("--arch",)),
    ],
)
def test_options_that_cannot_be(
    run: Run,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[object, ...],
    says: tuple[str, ...],
) -> None:
    def no_memory(*sizes: object, **_: object) -> torch.Tensor:
        raise RuntimeError(f"[enforce fail] DefaultCPUAllocator: can't allocate {sizes}")

    if "--batch-size" in arguments:
        monkeypatch.setattr(torch, "randn", no_memory)
    refuse(run, bundle, "bench", bundle, *arguments, status=USAGE, code="option", says=says)


def test_a_device_that_is_not_there(
    run: Run, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    says = ("--device cuda", "available: cpu")
    arguments = ("bench", bundle, "--device", "cuda")
    refuse(run, bundle, *arguments, status=USAGE, code="device-unavailable", says=says)


def test_memory_of_a_device_that_runs_out(
    run: Run, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object, **__: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", no_memory)
    arguments = ("bench", bundle, "--inference-only", *QUICK)
    assert run(*arguments).exit_code == 0
    monkeypatch.setattr("scalenet_cli.measure.throughput.Work.logits", no_memory)
    refuse(run, bundle, *arguments, status=USAGE, code="option", says=("lower --batch-size",))


def test_language_models_refuse_what_is_for_images(run: Run, decoder: Path) -> None:
    for arguments, fact in (
        (("--channels-last",), "--channels-last"),
        (("--input-size", 1), "no next one"),
    ):
        result = run("bench", decoder, *QUICK, *arguments)
        assert (result.exit_code, result.stdout) == (USAGE, "")
        assert fact in result.stderr


@pytest.mark.parametrize(
    "arguments", [("--device", "tpu"), ("--precision", "int8"), ("--repeats", 0), ("--seed", -1)]
)
def test_values_that_typer_refuses(run: Run, bundle: Path, arguments: tuple[object, ...]) -> None:
    result = run("bench", bundle, *arguments)
    assert (result.exit_code, result.stdout) == (USAGE, "")
    assert "Error" in result.stderr

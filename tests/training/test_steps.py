"""Every optimizer step against a few lines that say what it should be."""

import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.data import create_dataset, create_transform
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.nn import functional as F

from scalenet_cli import load, verify
from scalenet_cli.bundle.read import open_bundle
from scalenet_cli.surgery import verify_ties
from scalenet_cli.training.order import epoch_order
from tests.models import ARCHITECTURES, tiny_case
from tests.training.runs import (
    BOUND,
    COMPARABLE,
    RECIPE,
    copies,
    largest_difference,
    losses,
    parameters_of,
    slow,
    state_of,
    train,
    watched,
    write_bundle,
    write_data,
)

SHORT = {**COMPARABLE, "eval_epochs": 2}


@pytest.fixture
def data32(tmp_path: Path) -> Path:
    """Pictures of Swin's size."""
    return write_data(tmp_path / "data32", size=32, train=18, val=6)


def assert_close_runs(one: Path, other: Path) -> None:
    assert losses(one) == pytest.approx(losses(other), abs=BOUND, rel=0)
    difference, key = largest_difference(state_of(one), state_of(other))
    assert difference < BOUND, key


@pytest.mark.parametrize("name", ["vit", *map(slow, ("swin", "deit_distilled", "vit_variant"))])
def test_frozen_tensors_never_change(tmp_path: Path, data: Path, data32: Path, name: str) -> None:
    bundle, run = write_bundle(tmp_path / "bundle", name), tmp_path / "run"
    before = parameters_of(load(bundle))
    with watched() as watch:
        recipe = {**RECIPE, "max_steps": 2, "eval_steps": 1, "ema_decay": 0.5}
        train(bundle, data32 if name == "swin" else data, run, recipe)
    trained = set(watch.steps[0].tensors)
    frozen = before.keys() - trained
    assert frozen
    assert trained
    for seen in watch.steps:
        assert seen.with_gradient == trained
    for name in ("last", "best"):
        after = parameters_of(load(run / name))
        assert all(torch.equal(before[key], after[key]) for key in frozen)
        base = run / name / "model.safetensors"
        assert base.stat().st_ino == (run / "start" / "model.safetensors").stat().st_ino
        assert base.read_bytes() == (bundle / "model.safetensors").read_bytes()
        verify(run / name, source=str(bundle.with_name("bundle-source")))
        verify_ties(load(run / name), open_bundle(bundle).manifest.ties)
    verify_ties(watch.model, open_bundle(bundle).manifest.ties)
    assert any(not torch.equal(before[key], after[key]) for key in trained)


def test_average_of_tied_tensors_equals_a_hand_computation(
    bundle: Path, data: Path, tmp_path: Path
) -> None:
    with watched() as watch:
        recipe = {**SHORT, "ema_decay": 0.7, "train": "all", "save_steps": 3}
        train(bundle, data, tmp_path / "run", recipe)
    assert len(watch.steps) == 8
    average = dict(watch.steps[0].tensors)
    for seen in watch.steps[1:]:
        average = {key: old.lerp(seen.tensors[key], 1 - 0.7) for key, old in average.items()}
    state = state_of(tmp_path / "run")
    last = parameters_of(load(tmp_path / "run/last"))
    ties = open_bundle(bundle).manifest.ties
    assert any(key in ties for key in average)
    for key, expected in average.items():
        assert torch.equal(state[f"average/{key}"], expected), key
        assert torch.equal(last[key], expected), key
        assert torch.equal(state[f"model/{key}"], watch.steps[-1].tensors[key]), key


def expected_rate(step: int, recipe: dict[str, Any], per_epoch: int) -> float:
    """Linear warm-up, then a cosine over the whole run."""
    peak, low, start = recipe["lr"], recipe["min_lr"], recipe["warmup_lr"]
    steps, warmup = recipe["epochs"] * per_epoch, round(recipe["warmup_epochs"] * per_epoch)
    if step < warmup:
        return start + step * (peak - start) / warmup
    return low + (peak - low) * (1 + math.cos(math.pi * step / steps)) / 2


def test_rates_and_decays_are_the_recipe_s(bundle: Path, data: Path, tmp_path: Path) -> None:
    recipe: dict[str, Any] = {
        **SHORT, "epochs": 3, "warmup_epochs": 1.5, "min_lr": 1e-5, "warmup_lr": 1e-6,
        "train": "all", "layer_decay": 0.7, "weight_decay": 0.03, "eval_epochs": 3,
    }  # fmt: skip
    with watched() as watch:
        train(bundle, data, tmp_path / "run", recipe)
    assert len(watch.steps) == 12
    depth = 6
    for step, seen in enumerate(watch.steps):
        rate = expected_rate(step, recipe, per_epoch=4)
        for key, found in seen.rates.items():
            # A tied tensor has one key here, that of ordinal 0: its depth is that of its first use.
            outer = {"norm": depth, "head": depth + 1}.get(key.split(".")[0], 0)
            layer = int(key.split(".")[1]) + 1 if key.startswith("blocks.") else outer
            assert found == pytest.approx(rate * 0.7 ** (depth + 1 - layer), rel=1e-9), key
    parameters = dict(watch.model.named_parameters())
    for key, decay in watch.steps[0].decays.items():
        small = parameters[key].ndim <= 1 or key in ("pos_embed", "cls_token")
        assert decay == (0 if small else 0.03), key


@pytest.mark.parametrize("accumulate", [slow(2), 4])
def test_accumulation_equals_one_batch(
    bundle: Path, data: Path, tmp_path: Path, accumulate: int
) -> None:
    recipe = {**SHORT, "train": "all"}
    train(bundle, data, tmp_path / "one", recipe)
    train(bundle, data, tmp_path / "more", {**recipe, "accumulate": accumulate})
    assert_close_runs(tmp_path / "one", tmp_path / "more")


@pytest.mark.parametrize("name", ["vit", slow("swin")])
def test_checkpointed_gradients_are_the_same(
    tmp_path: Path, data: Path, data32: Path, name: str
) -> None:
    """Drop path is on: what is computed twice draws the same numbers twice."""
    bundle = write_bundle(tmp_path / "bundle", name)
    chosen = data32 if name == "swin" else data
    recipe = {**RECIPE, "train": "all", "max_steps": 4, "eval_steps": 4}
    train(bundle, chosen, tmp_path / "plain", recipe)
    train(bundle, chosen, tmp_path / "again", {**recipe, "gradient_checkpointing": True})
    assert losses(tmp_path / "plain") == losses(tmp_path / "again")
    difference, key = largest_difference(state_of(tmp_path / "plain"), state_of(tmp_path / "again"))
    assert difference == 0, key


def plain_timm(data: Path, recipe: dict[str, Any]) -> tuple[list[float], nn.Module]:
    """Training as a script on timm and torch would do it."""
    model = timm.create_model(ARCHITECTURES["vit"].name, **ARCHITECTURES["vit"].arguments)
    model.load_state_dict(tiny_case("vit").model.state_dict())
    dataset = create_dataset("", root=str(data), split="train")
    dataset.transform = create_transform(
        (3, 16, 16), interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=0.9
    )
    optimizer = create_optimizer_v2(model.train(), "adamw", recipe["lr"], 0.05, eps=1e-4)
    steps = recipe["epochs"] * (len(dataset) // 8)
    schedule = CosineLRScheduler(
        optimizer, steps, lr_min=2e-6, warmup_t=4, warmup_lr_init=2e-7, t_in_epochs=False
    )
    found = []
    for step in range(steps):
        schedule.step_update(step)
        epoch, offset = divmod(step, len(dataset) // 8)
        picked = epoch_order(len(dataset), 0, epoch)[offset * 8 : offset * 8 + 8]
        images, targets = zip(*(dataset[int(index)] for index in picked), strict=True)
        loss = F.cross_entropy(model(torch.stack(images)), torch.tensor(targets))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        found.append(loss.item())
    return found, model


# timm's own reader, in the plain loop, leaves closing files to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_training_a_base_equals_plain_timm(data: Path, tmp_path: Path) -> None:
    """Our optimizer is the fused one of torch; the other difference is none."""
    bundle = write_bundle(tmp_path / "base", factor=1, adapter={"type": "none"}, train="all")
    run = tmp_path / "run"
    train(bundle, data, run, {**SHORT, "epochs": 3})
    expected, model = plain_timm(data, {**SHORT, "epochs": 3})
    assert losses(run) == pytest.approx(expected, abs=1e-6, rel=0)
    difference, key = largest_difference(
        parameters_of(load(run / "last")), copies(dict(model.named_parameters()))
    )
    assert difference < BOUND, key

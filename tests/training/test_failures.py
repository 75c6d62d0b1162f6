"""A run that diverges says at which step and why, and its last checkpoint can be used."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import Result

from scalenet_cli import load, verify
from scalenet_cli.errors import LossNotFinite
from scalenet_cli.training.checks import require_finite
from tests.training.runs import PLAIN, metrics, train

Run = Callable[..., Result]


def test_absurd_rate_ends_with_the_step_and_the_cause(
    run: Run, bundle: Path, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    result = run(
        "finetune", bundle, "--data", data, "-o", output, "--device", "cpu", "--workers", 0,
        "--batch-size", 8, "--epochs", 4, "--save-steps", 1, "--lr", 1e30, "--warmup-epochs", 0,
        "--set", "no_aug=true", "--set", "mixup=0", "--set", "cutmix=0", "--set", "log_steps=1",
    )  # fmt: skip
    assert result.exit_code == 3, result.output
    done = [line for line in metrics(output) if "loss" in line]
    step = done[-1]["step"] + 1
    assert f"error[loss-not-finite]: step {step} diverged at a learning rate of" in result.stderr
    assert "the loss is nan" in result.stderr
    verify(output / "last")
    assert all(torch.isfinite(value).all() for value in load(output / "last").parameters())
    assert [path.name for path in output.glob("state-*")] == [f"state-{step - 1:09d}"]


def test_fp16_that_always_overflows_ends_with_its_name(
    bundle: Path, data: Path, tmp_path: Path
) -> None:
    recipe = {
        **PLAIN, "precision": "fp16", "lr": 1e30, "warmup_epochs": 0, "max_steps": 60,
        "eval_steps": 60, "save_steps": 1,
    }  # fmt: skip
    with pytest.raises(LossNotFinite, match="fp16 overflows at every loss scale"):
        train(bundle, data, tmp_path / "run", recipe)
    verify(tmp_path / "run/last")


def weights(value: float, gradient: float) -> dict[str, nn.Parameter]:
    parameter = nn.Parameter(torch.full((2,), value))
    parameter.grad = torch.full((2,), gradient)
    return {"w": parameter}


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("loss", "norm", "tensors", "cause"),
    [
        (NAN, 1.0, weights(1.0, 1.0), "the loss is nan"),
        (1.0, INF, weights(1.0, INF), "the loss is 1, but the gradient of w is not finite"),
        (NAN, NAN, weights(NAN, NAN), r"the weights of w are not finite \(1 tensors\)"),
    ],
)
def test_cause_is_the_first_thing_that_is_not_finite(
    loss: float, norm: float, tensors: dict[str, nn.Parameter], cause: str
) -> None:
    with pytest.raises(LossNotFinite, match=f"step 7 diverged at a learning rate of 0.1: {cause}"):
        require_finite(7, loss, norm, 0.1, tensors)

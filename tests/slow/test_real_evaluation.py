"""`eval` of a real checkpoint on real images."""

import json
from collections.abc import Callable

import pytest
from typer.testing import Result

from tests.slow.test_real_weights import asset

pytestmark = [pytest.mark.assets]


def test_eval_of_the_cifar10_vit_is_exact(run: Callable[..., Result]) -> None:
    arguments = ("eval", asset("vit_cifar10_tiny") / "vit_tiny_cifar10.pth", "--json")
    arguments += ("--model-kwargs", "num_heads=4", "--model-kwargs", "norm_eps=1e-5")
    arguments += ("--mean", "0,0,0", "--std", "1,1,1", "--crop-pct", "1")
    arguments += ("--data", asset("cifar10"), "--workers", "0", "--fail-under", "top1=56.97")
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["num_images"], report["correct1"], report["top1"]) == (10_000, 5697, 56.97)

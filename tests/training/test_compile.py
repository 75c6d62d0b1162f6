"""torch.compile: a graph per kind of block and mode, whatever the depth and the drop path."""

from collections.abc import Iterator
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from scalenet_cli.training.compiling import TensorDropPath
from tests.training.runs import COMPARABLE, losses, train, write_bundle

SHORT = {**COMPARABLE, "max_steps": 2, "eval_steps": 2}


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("drop_path", [0, 0.2])
@pytest.mark.parametrize("factor", [2, 4])
def test_blocks_of_a_kind_share_their_graphs(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: int, drop_path: float
) -> None:
    eager: Any = partialmethod(nn.Module.compile, backend="eager")
    monkeypatch.setattr(nn.Module, "compile", eager)
    bundle = write_bundle(tmp_path / "bundle", factor=factor)
    train(bundle, data, tmp_path / "run", {**SHORT, "compile": True, "drop_path": drop_path})
    # With or without an adapter, training or not.
    assert counters["stats"]["unique_graphs"] <= 4
    assert not counters["graph_break"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_run_equals_the_plain_one(bundle: Path, data: Path, tmp_path: Path) -> None:
    train(bundle, data, tmp_path / "plain", SHORT)
    train(bundle, data, tmp_path / "compiled", {**SHORT, "compile": True})
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), abs=1e-5)


def test_drop_path_with_its_rate_in_a_tensor_keeps_the_mean() -> None:
    torch.manual_seed(0)
    ones = torch.ones(20_000, 2, 1, dtype=torch.float64)
    layer = TensorDropPath(0.25, torch.device("cpu")).train()
    found = layer(ones)
    assert found.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(found[:, 0], found[:, 1])
    assert float(found.mean()) == pytest.approx(1, abs=0.02)
    assert torch.equal(layer.eval()(ones), ones)
    assert not layer.state_dict()

"""No network, one thread per worker, tiny models, a command line, bundles to look at."""

import os
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from typer.testing import CliRunner, Result

from scalenet_cli.cli.app import app
from tests.models import TinyCase, tiny_case

torch.set_num_threads(1)

PLAN = "version: 1\nmapping: interpolate\nfactor: 2\nadapter: {dim: 4}\nstart: copy\n"


@pytest.hookimpl(tryfirst=True)  # before -m decides what is slow
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test marked ``sample(step)``, every step-th set of parameters stays; others are slow."""
    seen: Counter[str] = Counter()
    for item in items:
        sample = item.get_closest_marker("sample")
        if sample is None or item.get_closest_marker("slow") is not None:
            continue
        test = item.nodeid.split("[")[0]
        if seen[test] % sample.args[0]:
            item.add_marker(pytest.mark.slow)
        seen[test] += 1


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        # Processes that load data hand tensors over through sockets of this machine's own kind.
        if self.family != socket.AF_UNIX:
            raise AssertionError("a test tried to reach the network")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def case(request: pytest.FixtureRequest) -> TinyCase:
    """The tiny model that a test's ``indirect`` parameter names."""
    return tiny_case(request.param)


@pytest.fixture
def run() -> Callable[..., Result]:
    """The command line in this process: ``run("check", path)``."""

    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return invoke


@pytest.fixture
def plan_file(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a plan and returns its path."""

    def write(text: str = PLAN, name: str = "plan.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture(scope="session")
def vit_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ViT as a ``.pth`` state dict; read it with VIT_OPTIONS."""
    path = tmp_path_factory.mktemp("checkpoints") / "vit.pth"
    torch.save(tiny_case("vit").model.state_dict(), path)
    return path


VIT_OPTIONS = ("--model-kwargs", "num_heads=2")

"""Pictures and bundles for tiny runs, and the server of their processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.training.children import Server
from tests.training.runs import write_bundle, write_data

_servers: list[Server] = []


def pytest_collection_finish(session: pytest.Session) -> None:
    """Now, because nothing has been trained in this process yet."""
    if any("server" in getattr(item, "fixturenames", ()) for item in session.items):
        _servers.append(Server())


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Starts processes that can train."""
    yield _servers[0]
    _servers.pop().close()


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five classes: 34 pictures to train on, 21 to validate."""
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ViT of which only the instances' tensors are to be trained."""
    return write_bundle(tmp_path_factory.mktemp("bundles") / "vit")

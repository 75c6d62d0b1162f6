"""Requests to stop, which libraries may swallow or turn into something else."""

import signal
from collections.abc import Iterator
from typing import NoReturn

import pytest

from scalenet_cli.files.stop_requests import requests_wait, stop_requests


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    def stop(number: int, _: object) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    yield
    signal.signal(signal.SIGTERM, before)


def interrupted_import() -> None:
    """As an import ends that a signal meets in the wrong place."""
    try:
        signal.raise_signal(signal.SIGTERM)
    except SystemExit:
        raise RuntimeError("the module is half imported") from None


def test_a_request_that_became_an_error_is_a_request() -> None:
    with pytest.raises(SystemExit) as raised, stop_requests():
        interrupted_import()
    assert raised.value.code == 128 + signal.SIGTERM


def test_an_error_without_a_request_stays() -> None:
    with pytest.raises(RuntimeError, match="of its own"), stop_requests():
        raise RuntimeError("of its own")


def test_a_request_waits_for_the_end_of_the_block() -> None:
    done = []
    before = signal.getsignal(signal.SIGTERM)

    def undisturbed() -> None:
        with requests_wait():
            signal.raise_signal(signal.SIGTERM)
            done.append("imported")

    with pytest.raises(SystemExit) as raised:
        undisturbed()
    assert raised.value.code == 128 + signal.SIGTERM
    assert done == ["imported"]
    assert signal.getsignal(signal.SIGTERM) is before
    with requests_wait():
        pass
    assert signal.getsignal(signal.SIGTERM) is before

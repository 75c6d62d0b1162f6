"""A finished study, which tests look at or change copies of."""

from pathlib import Path

import pytest

from tests.study.helpers import NAN, SCALENET, SWA, Made, Watch, run_study, write_study
from tests.training.runs import write_data


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), train=17, val=10)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Made:
    """Never interrupted."""
    folder = tmp_path_factory.mktemp("made")
    title = "Two ways, and one that fails"
    study, watch = write_study(folder, data, SCALENET, SWA, NAN, title=title), Watch()
    return study, folder / "out", run_study(study, folder / "out", watch, plots=True), watch

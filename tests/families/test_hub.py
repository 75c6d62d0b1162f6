"""What is downloaded of a repository, with a stand-in for the download."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from scalenet_cli.families.sources import open_source
from scalenet_cli.models.target import open_target
from scalenet_cli.tasks.causal_lm.data.tokenizers import load_tokenizer
from tests.tasks.causal_lm.helpers import write_model


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model on the hub, of which `tmp_path / "cache"` gets the files that are asked for."""
    remote = write_model(tmp_path / "remote")
    (remote / "tekken.json").write_text("{}")
    (cache := tmp_path / "cache").mkdir()

    def download(name: str, *, revision: str | None, allow_patterns: Sequence[str]) -> str:
        assert (name, revision) == ("someone/tiny", "v1")
        for path in remote.iterdir():
            if any(fnmatchcase(path.name, pattern) for pattern in allow_patterns):
                (cache / path.name).write_bytes(path.read_bytes())
        return str(cache)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return cache


def test_a_tokenizer_comes_without_the_weights(repository: Path) -> None:
    folder = open_target("hf:someone/tiny@v1").files_folder(weights=False)
    assert load_tokenizer(folder).vocab_size == 64
    assert not (folder / "model.safetensors").exists()


def test_what_belongs_to_a_model_is_carried(repository: Path) -> None:
    source = open_source("hf:someone/tiny@v1")
    assert {path.name for path in source.carried} >= {"tokenizer.json", "tekken.json"}
    random = open_source("hf:someone/tiny@v1", weights=False, random_seed=0)
    assert random.carried == source.carried

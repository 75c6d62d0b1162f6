"""Data sets of the hub, by the library's own builders on a folder that stands in for the hub."""

import json
from pathlib import Path
from typing import Any

import pytest

from scalenet_cli.errors import DataNotFound, DataUnreadable, DownloadFailed
from scalenet_cli.tasks.causal_lm.data.records import read_records

datasets = pytest.importorskip("datasets")
PLACE = "hf:owner/name/default"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    return tmp_path / "cache"


@pytest.fixture
def hub(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of `owner/name`, which the builder finds."""
    files = tmp_path / "name"
    files.mkdir()
    for split in ("train", "validation", "test"):
        rows = [{"text": f"{split} {number}"} for number in range(3)]
        (files / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    make = datasets.load_dataset_builder

    def found(name: str, config: str, *, revision: str | None, cache_dir: str | None = None) -> Any:
        assert (name, config, revision) == ("owner/name", "default", None)
        return make(str(files), config, cache_dir=cache_dir)

    monkeypatch.setattr(datasets, "load_dataset_builder", found)
    return files


def offline(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's own builder, without a network, and what was built as the hub's data set."""
    monkeypatch.setattr(datasets, "load_dataset_builder", datasets.load.load_dataset_builder)
    (root / "name").rename(root / "owner___name")


def texts(split: str) -> list[str]:
    return [record.fields["text"] for record in read_records(PLACE, split)]


def test_only_the_files_of_a_split_are_read(hub: Path) -> None:
    (hub / "train.jsonl").write_bytes(b"\xff no JSON at all")
    assert texts("test") == ["test 0", "test 1", "test 2"]
    assert read_records(PLACE, "val")[2].place == f"{PLACE} validation[2]"
    with pytest.raises(DataUnreadable, match="datasets cannot read it"):
        read_records(PLACE, "train")
    with pytest.raises(DataNotFound, match="no split dev, but train, validation, test"):
        read_records(PLACE, "dev")


def test_a_cache_of_all_splits_is_taken(hub: Path, cache: Path) -> None:
    datasets.load_dataset_builder("owner/name", "default", revision=None).download_and_prepare()
    assert texts("training") == ["train 0", "train 1", "train 2"]
    assert not (cache / "scalenet-splits").exists()


def test_a_split_that_was_read_is_there_offline(
    hub: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = texts("validation")
    offline(cache / "scalenet-splits" / "validation", monkeypatch)
    assert texts("val") == expected
    with pytest.raises(DownloadFailed, match=f"{PLACE} could not be fetched"):
        read_records(PLACE, "train")


def test_all_splits_that_were_read_are_there_offline(
    hub: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets.load_dataset_builder("owner/name", "default", revision=None).download_and_prepare()
    offline(cache, monkeypatch)
    assert texts("test") == ["test 0", "test 1", "test 2"]
    with pytest.raises(DataNotFound, match="no split dev, but"):
        read_records(PLACE, "dev")

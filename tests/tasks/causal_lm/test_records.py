"""Records of every format, with a place for messages."""

import json
from pathlib import Path

import pytest

from scalenet_cli.errors import DataNotFound, DataUnreadable, DownloadFailed, ScalenetError
from scalenet_cli.tasks.causal_lm.data.record import Record, text_of
from scalenet_cli.tasks.causal_lm.data.records import read_records

ROWS = [{"text": "a"}, {"text": "b\u00e9", "n": 1}]


def lines(rows: list[dict[str, object]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_json_lines_are_numbered_and_blank_ones_left_out(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\r\n  \n{"text": "b"}')
    assert read_records(str(path)) == [
        Record({"text": "a"}, f"{path}:1"),
        Record({"text": "b"}, f"{path}:4"),
    ]


def test_json_is_a_list_or_an_object_per_line(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(ROWS, indent=1))
    assert read_records(str(path)) == [
        Record(ROWS[0], f"{path}[0]"),
        Record(ROWS[1], f"{path}[1]"),
    ]
    path.write_text(lines(ROWS))
    assert [record.place for record in read_records(str(path))] == [f"{path}:1", f"{path}:2"]


@pytest.mark.parametrize("indent", [None, 2])
def test_json_may_be_one_object_which_is_a_record(tmp_path: Path, indent: int | None) -> None:
    path = tmp_path / "x.json"
    for row in (ROWS[1], {"messages": [{"role": "user", "content": "a"}]}, {"txt": "a"}):
        path.write_text(json.dumps(row, indent=indent))
        assert read_records(str(path)) == [Record(row, f"{path}:1")]
    path.write_text(json.dumps({"version": "1.1", "data": ROWS}, indent=indent))
    with pytest.raises(DataUnreadable, match="one object, with a list in its field data") as raised:
        read_records(str(path))
    assert raised.value.where == str(path)
    assert raised.value.hint
    assert raised.value.hint.startswith("a list of objects was expected, or an object per line")


def test_a_text_file_is_one_record(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("two\nlines\n")
    assert read_records(str(path)) == [Record({"text": "two\nlines\n"}, str(path))]


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "x.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([{"text": "a"}, {"text": "b"}]), path)
    assert read_records(str(path))[1] == Record({"text": "b"}, f"{path}[1]")
    rows = [{"text": "a"}, {"messages": [{"role": "user"}, {"role": "w", "content": "a"}]}]
    mixed = [{"text": None, "messages": None, **row} for row in rows]
    parquet.write_table(pyarrow.Table.from_pylist(mixed), path)
    assert [record.fields for record in read_records(str(path))] == rows
    path.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataUnreadable, match="no Parquet file"):
        read_records(str(path))


def test_a_conversation_alone_is_a_record(tmp_path: Path) -> None:
    record = {"conversations": [{"from": "human", "value": "a"}]}
    (tmp_path / "x.json").write_text(json.dumps(record, indent=1))
    assert [found.fields for found in read_records(str(tmp_path / "x.json"))] == [record]


@pytest.mark.parametrize("name", ["val.jsonl", "validation.json", "eval.jsonl"])
def test_a_folder_has_a_file_per_split(tmp_path: Path, name: str) -> None:
    (tmp_path / "train.jsonl").write_text(lines(ROWS[:1]))
    (tmp_path / name).write_text(lines(ROWS))
    assert len(read_records(str(tmp_path))) == 1
    assert len(read_records(str(tmp_path), "validation")) == 2
    with pytest.raises(DataNotFound, match=r"no test\.jsonl, but .*train"):
        read_records(str(tmp_path), "test")


def test_folders_that_datasets_wrote(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    data = datasets.Dataset.from_list([{"text": "a"}, {"text": "b"}])
    data.save_to_disk(tmp_path / "alone")
    datasets.DatasetDict({"validation": data}).save_to_disk(tmp_path / "splits")
    alone = read_records(str(tmp_path / "alone"))
    assert alone[1] == Record({"text": "b"}, f"{tmp_path / 'alone'}[1]")
    assert list(alone) == [alone[0], alone[1]] == alone[:2]
    assert alone[-1] == alone[1]
    with pytest.raises(IndexError):
        alone[2]
    splits = read_records(str(tmp_path / "splits"), "val")
    assert splits[0].place == f"{tmp_path / 'splits'} validation[0]"
    with pytest.raises(DataNotFound, match="no split train, but validation"):
        read_records(str(tmp_path / "splits"))


def test_fields_that_a_row_has_not_are_absent(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    datasets.Dataset.from_list([{"text": "a", "n": None}, {"text": None, "n": 2}]).save_to_disk(
        tmp_path
    )
    found = read_records(str(tmp_path))
    assert [record.fields for record in found] == [{"text": "a"}, {"n": 2}]
    assert found[1].fields == {"n": 2}


def test_a_data_set_that_is_a_script(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    folder = tmp_path / "scripted"
    (folder / "more").mkdir(parents=True)
    (folder / "more" / "x.jsonl").write_text(lines(ROWS))
    (folder / "scripted.py").write_text("raise SystemExit('code of a stranger was run')")
    with pytest.raises(DataUnreadable, match="Dataset scripts are no longer supported"):
        read_records(str(folder))


@pytest.mark.parametrize(
    ("content", "place", "says"),
    [
        (b'{"text": "a"}\n{"text": ', ":2", "not readable as JSON"),
        (b'{"text": "a", "text": "b"}', ":1", "stands twice"),
        (b'{"text": NaN}', ":1", "NaN is no JSON"),
        (b'{"a":' * 5000, ":1", "nested too deeply"),
        (b'["a"]', ":1", "a record is a list"),
        (b'{"text": "a"}\n7', ":2", "a record is a number"),
        (b'{"text": "caf\xe9"}', ":1", "codec can't decode"),
        (b"", "", "there is no record"),
        (b"\n\n", "", "there is no record"),
    ],
    ids=["half", "twice", "nan", "deep", "list", "number", "latin", "empty", "blank"],
)
def test_lines_that_are_no_records(tmp_path: Path, content: bytes, place: str, says: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataUnreadable, match=says) as raised:
        read_records(str(path))
    assert raised.value.where == f"{path}{place}"


def test_files_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.csv").write_text("text\na\n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "items.json").write_text('[{"text": "a"}, 3]')
    (tmp_path / "folder").mkdir()
    for name, says in (
        ("x.csv", r"not read from \.csv"),
        ("latin.txt", "no UTF-8 text"),
        ("items.json", "a record is a number"),
        ("gone.jsonl", "no such data"),
        ("folder", r"the folder has no train\.jsonl"),
        ("x\0y", "no such data"),
    ):
        with pytest.raises(ScalenetError, match=says):
            read_records(str(tmp_path / name))
    monkeypatch.setattr("scalenet_cli.tasks.causal_lm.data.records.MAX_LINE_BYTES", 10)
    (tmp_path / "long.jsonl").write_text(lines([{"text": "abcdefgh"}]))
    with pytest.raises(DataUnreadable, match="more than 10 bytes"):
        read_records(str(tmp_path / "long.jsonl"))


def test_the_hub_is_asked_only_by_its_prefix(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    with pytest.raises(DownloadFailed, match="hf:owner/name could not be fetched"):
        read_records("hf:owner/name")
    with pytest.raises(DataNotFound, match="no name of a data set"):
        read_records("hf:name")
    with pytest.raises(DataNotFound, match="no such data"):
        read_records("owner/name")


def test_a_field_that_is_no_text() -> None:
    for fields, says in (
        ({"txt": "a"}, "text is missing"),
        ({"text": 5}, "text is a number"),
        ({"text": None}, "text is null"),
        ({"text": "\ud800"}, "half a character"),
    ):
        with pytest.raises(DataUnreadable, match=says) as raised:
            text_of(Record(fields, "x.jsonl:3"), "text")
        assert raised.value.where == "x.jsonl:3"

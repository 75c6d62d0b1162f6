"""Files of results never take the place of anything but results, whatever --force says."""

import json
import shutil
from pathlib import Path

import pytest

from scalenet_cli import load, save
from scalenet_cli.errors import OptionError, OutputExists
from scalenet_cli.tasks.image_classification.evaluation.evaluate import evaluate
from scalenet_cli.tasks.image_classification.evaluation.options import EvalOptions
from tests.cli.finetuning import command, write_ground
from tests.cli.helpers import USAGE, Run, refuse, snapshot, write_decoder


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle ``out``, a run, a study, a checkpoint's folder, records, links to some of them."""
    from typer.testing import CliRunner

    from scalenet_cli.cli.app import app

    folder = write_ground(tmp_path_factory.mktemp("ground"))
    arguments = [str(argument) for argument in command(folder, folder / "run")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    (state,) = (folder / "run").glob("state-*")
    (folder / "state").symlink_to(state)
    (folder / "linked").symlink_to(folder / "out")
    (folder / "link.json").symlink_to(folder / "run" / "last" / "manifest.json")
    checkpoint = write_decoder(folder / "decoder")
    (checkpoint / "generation_config.json").write_text("{}")
    for name in ("study.yaml", "results.json", "timings.json", "cells/a/seed-0.json"):
        (folder / "study" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "study" / name).write_text("{}")
    (folder / "records").mkdir()
    for name in ("rows.csv", "info.json"):
        (folder / "records" / name).write_text("text\n")
    return folder


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("out/manifest.json", "part of the bundle "),
        ("linked/manifest.json", "part of the bundle "),
        ("link.json", "part of the bundle "),
        ("run/run.json", "part of the run "),
        ("run/best/manifest.json", "part of the bundle "),
        ("run/start/../last/manifest.json", "part of the bundle "),
        ("state/state.json", "part of the run "),
        ("state/new.json", "part of the run "),
        ("study/results.json", "part of the study "),
        ("study/cells/a/seed-0.json", "part of the study "),
        ("decoder/config.json", "part of the checkpoint "),
        ("decoder/generation_config.json", "part of the checkpoint "),
    ],
)
def test_parts_of_something_else(ground: Path, name: str, says: str) -> None:
    before = snapshot(ground)
    how = EvalOptions(confusion=ground / name, force=True)
    with pytest.raises(OutputExists, match=says) as raised:
        evaluate(ground / "out", ground / "data", how=how)
    assert raised.value.hint is not None
    assert "choose another --confusion" in raised.value.hint
    assert snapshot(ground) == before


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("records/rows.csv", {"dataset": "hfds/RECORDS"}),
        ("records/rows.csv", {"class_map": "RECORDS/rows.csv"}),
        ("records/info.json", {"dataset": "wds/x"}),
    ],
)
def test_data(ground: Path, name: str, options: dict[str, str]) -> None:
    """Also where a link leads there."""
    records = str(ground / "records")
    chosen = {key: value.replace("RECORDS", records) for key, value in options.items()}
    link = ground / f"way{Path(name).suffix}"
    link.symlink_to(ground / name)
    data = records if "wds" in options.get("dataset", "") else ground / "data"
    try:
        for path in (ground / name, link):
            files = {"confusion": path} if path.suffix == ".json" else {"predictions": path}
            with pytest.raises(OutputExists, match=f"part of {records}"):
                evaluate(ground / "out", data, how=EvalOptions(**files, **chosen, force=True))
    finally:
        link.unlink()
    assert (ground / name).read_text() == "text\n"


def test_results_beside_a_bundle_and_among_images_are_replaced(
    run: Run, ground: Path, tmp_path: Path
) -> None:
    shutil.copytree(ground / "run", tmp_path / "run")
    shutil.copytree(ground / "data", tmp_path / "data")
    files = (tmp_path / "run" / "best" / "confusion.json", tmp_path / "data" / "rows.csv")
    for path in files:
        path.write_text("an earlier result")
    flags = ("--confusion", files[0], "--predictions", files[1], "--force", "--workers", 0)
    ended = run("eval", tmp_path / "run", "--data", tmp_path / "data", *flags)
    assert ended.exit_code == 0, ended.stderr
    assert json.loads(files[0].read_text())["rows"] == "target"
    assert files[1].read_text().startswith("file,target")


def test_two_names_of_one_file(ground: Path, tmp_path: Path) -> None:
    (tmp_path / "way").symlink_to(tmp_path)
    how = EvalOptions(confusion=tmp_path / "x.csv", predictions=tmp_path / "way" / "x.csv")
    with pytest.raises(OptionError, match="name the same file"):
        evaluate(ground / "out", ground / "data", how=how)


@pytest.mark.parametrize("name", ["start", "last", "best"])
def test_a_bundle_of_a_run_is_not_expanded_over(run: Run, ground: Path, name: str) -> None:
    plan = ground / "out" / "plan.yaml"
    arguments = ("expand", "timm:vit_tiny_patch16_224", "--plan", plan, "--random-weights")
    output = ground / "run" / name
    says = ("the output is part of a run",)
    refuse(
        run, ground, *arguments, "-o", output, "--force", status=USAGE, code="output-exists",
        says=says,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["start", "last", "best"])
def test_a_bundle_of_a_run_is_not_saved_over(ground: Path, name: str) -> None:
    output = ground / "run" / name
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    with pytest.raises(OutputExists, match="part of a run"):
        save(load(output), output, start=output, force=True)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before

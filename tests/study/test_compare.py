"""Studies carried out: results, interruption, and what is kept."""

import json
import os
import shutil
import signal
import subprocess
import time
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest

from scalenet_cli.errors import OptionError, OutputExists, RunDiffers
from scalenet_cli.study.cells import CellOptions
from scalenet_cli.study.folder import Cell, StudyFolder
from scalenet_cli.study.jobs import choose_devices
from scalenet_cli.study.worker import Setting, Steps, work
from tests.cli.helpers import child_command
from tests.study.helpers import (
    NAN,
    PLAN,
    SCALENET,
    Interrupted,
    Made,
    Watch,
    run_study,
    without,
    write_study,
)


class Named:
    """All of an arm that a finished cell needs."""

    name = "swa"


def test_the_plan_of_the_study_comes_first(made: Made) -> None:
    _, _, report, watch = made
    assert [plan.results for plan in watch.plans] == [None]
    scalenet, swa, base = report.arms
    assert (scalenet.blocks, scalenet.new_blocks) == (4, 2)
    assert (swa.blocks, swa.new_blocks) == (3, 1)
    assert base.blocks == 2
    assert scalenet.trained_groups == ("norms", "adapters")
    assert scalenet.trainable < scalenet.stored
    assert swa.trainable == swa.stored
    assert [arm.steps for arm in report.arms] == [4, 4, 4]
    for arm in report.arms:
        assert arm.total_train_flops == arm.train_flops * 8 * 4
        # Forward, backward by the input, backward by the weights: at most three times the forward.
        assert 4 * arm.macs < arm.train_flops <= 6 * arm.macs
    assert [a.relative_cost for a in report.arms] == [
        round(a.total_train_flops / scalenet.total_train_flops, 4) for a in report.arms
    ]


def test_results_are_those_of_the_runs(made: Made) -> None:
    _, out, report, watch = made
    assert watch.began_cells == ["scalenet/seed-0", "swa/seed-0", "nan/seed-0"]
    # After each evaluation but the one before any step.
    assert len(watch.times_left) == 6
    assert all(seconds > 0 for seconds in watch.times_left)
    results = json.loads((out / "results.json").read_text())
    assert report.results is not None
    assert json.loads(report.results.model_dump_json()) == results
    assert results["metric"] == "top1"
    for arm in results["arms"][:2]:
        (cell,) = arm["cells"]
        run = out / "cells" / arm["cost"]["name"] / "seed-0"
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        curve = [[line["epoch"], line["top1"]] for line in lines if "top1" in line]
        assert cell["curve"] == curve
        assert len(curve) == 3
        assert cell["outcome"]["before"] == curve[0][1] == arm["before"]["mean"]
        assert cell["outcome"]["last"] == curve[-1][1] == arm["last"]["mean"]
        assert arm["last"]["std"] is None
        manifest = json.loads((run / "start" / "manifest.json").read_text())
        assert manifest["parameters"]["stored"] == arm["cost"]["stored"]
        assert manifest["flops"]["macs"] == arm["cost"]["macs"]


def test_a_diverging_arm_is_marked_and_the_study_goes_on(made: Made) -> None:
    _, out, report, watch = made
    assert report.results is not None
    arm = report.results.arms[2]
    (cell,) = arm.cells
    assert arm.num_diverged == 1
    assert cell.outcome.diverged is not None
    assert cell.outcome.steps == 2
    assert "step 2 diverged" in cell.outcome.diverged
    assert cell.outcome.before is not None
    assert arm.before is arm.last is None
    assert "`nan` seed 0 diverged: step 2" in (out / "results.md").read_text()
    assert any("nan/seed-0 diverged" in note for note in watch.notes)


def test_tables_times_and_plots_are_written(made: Made) -> None:
    _, out, report, _ = made
    assert all((out / name).is_file() for name in report.files)
    assert {"results.md", "timings.json", "compute.png"} < set(report.files)
    table = (out / "results.md").read_text()
    assert table.startswith(
        "# Two ways, and one that fails\n\nSource: `timm:vit_tiny_patch16_224`.\n"
    )
    assert report.title == "Two ways, and one that fails"
    assert json.loads((out / "results.json").read_text())["title"] == report.title
    rows = [line for line in table.splitlines() if "| 1" in line]
    assert [row.split(" | ")[0] for row in rows] == ["| scalenet", "| swa", "| nan"]
    times = json.loads((out / "timings.json").read_text())["training_seconds"]
    assert set(times) == {"scalenet", "swa"}  # not of what diverged
    assert set(times["swa"]) == {"0"}
    assert times["swa"]["0"] > 0
    for name in ("curves.png", "parameters.png", "compute.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    assert not (out / "bundles").exists()


def test_an_interrupted_study_ends_with_the_same_bytes(made: Made, tmp_path: Path) -> None:
    study, out, _, _ = made
    copy = without(out, tmp_path / "out", "swa")
    with pytest.raises(Interrupted):
        run_study(study, copy, Watch("swa/seed-0", 3))
    assert not (copy / "results.json").exists()
    assert not (copy / "cells" / "swa" / "seed-0.json").exists()
    watch = Watch()
    run_study(study, copy, watch)
    assert watch.began_cells == ["swa/seed-0"]
    for name in ("results.json", "study.yaml"):
        assert (copy / name).read_bytes() == (out / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["scalenet/seed-0", "swa/seed-0"])
@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_a_study_interrupted_anywhere_ends_with_the_same_bytes(
    made: Made, tmp_path: Path, cell: str, step: int
) -> None:
    study, out, _, _ = made
    with pytest.raises(Interrupted):
        run_study(study, tmp_path / "out", Watch(cell, step))
    run_study(study, tmp_path / "out")
    result = (tmp_path / "out" / "results.json").read_bytes()
    assert result == (out / "results.json").read_bytes()


def test_a_finished_study_trains_nothing(made: Made, tmp_path: Path) -> None:
    study, out, report, _ = made
    copy, watch = shutil.copytree(out, tmp_path / "out"), Watch()
    again = run_study(study, copy, watch)
    assert watch.began_cells == []
    assert watch.notes == ["3 of 3 cells are finished already"]
    assert again.results == report.results
    assert (copy / "results.json").read_bytes() == (out / "results.json").read_bytes()


def test_a_dry_run_writes_nothing(made: Made, tmp_path: Path) -> None:
    study, _, report, _ = made
    dry = run_study(study, tmp_path / "out", dry_run=True)
    assert dry.arms == report.arms
    assert not list(tmp_path.iterdir())


def test_a_changed_study_says_which_cells_no_longer_apply(
    made: Made, data: Path, tmp_path: Path
) -> None:
    _, out, _, _ = made
    copy = shutil.copytree(out, tmp_path / "out")
    wider = {**SCALENET, "plan": {**PLAN, "adapter": {"dim": 8}}}
    changed = write_study(tmp_path, data, wider, NAN)
    with pytest.raises(RunDiffers) as raised:
        run_study(changed, copy)
    assert "scalenet/seed-0 (plan changed)" in raised.value.fact
    assert "nan" not in raised.value.fact
    recipe = write_study(tmp_path, data, SCALENET, NAN, settings={"epochs": 3})
    with pytest.raises(RunDiffers, match=r"nan/seed-0 \(recipe changed\); scalenet/seed-0"):
        run_study(recipe, copy)
    shutil.rmtree(copy / "cells" / "scalenet")
    report = run_study(write_study(tmp_path, data, wider, NAN), copy, dry_run=True)
    assert report.notes[0].startswith("the head is kept: the model has no class names")
    assert report.notes[1:] == ("cells that the study no longer names are left alone: swa/seed-0",)


def test_some_arms_now_and_the_others_later(made: Made, tmp_path: Path) -> None:
    study, out, _, _ = made
    copy, watch = without(out, tmp_path / "out", "scalenet", "swa"), Watch()
    report = run_study(study, copy, watch, only=("nan",))
    assert watch.began_cells == []
    assert report.results is not None
    assert [arm.missing_seeds for arm in report.results.arms] == [(0,), (0,), ()]
    assert "0 of 1" in (copy / "results.md").read_text()
    with pytest.raises(OptionError, match="nann is no arm"):
        run_study(study, copy, only=("nann",))
    (copy / "study.yaml").unlink()
    with pytest.raises(OutputExists):
        run_study(study, copy)


@pytest.mark.slow
def test_workers_make_the_same_cells(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What each process of --jobs does, here in this one: two workers, a cell each."""
    study, out, _, _ = made
    copy = without(out, tmp_path / "out", "swa", "nan")
    heard: list[Any] = []

    def side_by_side(
        folder: StudyFolder, cells: list[Cell], options: CellOptions, _: object, devices: list[None]
    ) -> None:
        assert devices == [None, None]
        for number in range(2):
            ours, theirs = Pipe()
            for cell in cells[number::2]:
                ours.send(cell)
            ours.send(None)
            work(Setting(folder, options, 1, devices[number]), theirs)
            while ours.poll():
                heard.append(ours.recv())

    monkeypatch.setattr("scalenet_cli.study.compare.run_side_by_side", side_by_side)
    run_study(study, copy, jobs=2)
    assert heard.count(None) == 2
    assert any("swa/seed-0: step 4: top-1" in text for text in heard if isinstance(text, str))
    assert Steps(4, evaluated=True) in heard
    assert (copy / "results.json").read_bytes() == (out / "results.json").read_bytes()


def test_a_worker_tells_what_ends_it(made: Made, tmp_path: Path) -> None:
    _, out, _, _ = made
    ours, theirs = Pipe()
    copy = shutil.copytree(out, tmp_path / "out")
    (copy / "cells" / "swa" / "seed-0.json").write_text("{")

    ours.send(Cell(Named(), 0))  # type: ignore[arg-type]
    work(Setting(StudyFolder(copy), None, 1, None), theirs)  # type: ignore[arg-type]
    message = ours.recv()
    assert message.code == "run-state-damaged"
    assert message.where.endswith("seed-0.json")


def test_jobs_on_the_cpu_share_it() -> None:
    assert choose_devices(3, "cpu") == [None, None, None]


def wait_for_the_end_of_the_group(number: int, until: float) -> None:
    """Nothing of a session is left, but for those that nobody asks how they ended."""
    while time.monotonic() < until:
        listed = subprocess.run(
            ["ps", "-o", "stat=", "-g", str(number)], capture_output=True, text=True
        )  # fmt: skip
        if all(state.startswith("Z") for state in listed.stdout.split()):
            return
        time.sleep(0.1)
    raise AssertionError("processes of a killed study live on")


@pytest.mark.slow
@pytest.mark.parametrize(("jobs", "whole"), [(1, True), (2, True), (2, False)])
def test_a_study_that_is_killed_ends_with_the_same_bytes(
    made: Made, tmp_path: Path, jobs: int, *, whole: bool
) -> None:
    """``whole``: with its workers, which otherwise save their state and end by themselves."""
    study, out, _, _ = made
    arguments = (
        "compare", study, "-o", tmp_path / "out", "--device", "cpu", "--workers", 0, "--jobs", jobs,
    )  # fmt: skip
    command = child_command(*arguments)
    process = subprocess.Popen(command, start_new_session=True)
    state = tmp_path / "out" / "cells" / "scalenet" / "seed-0" / "last"
    until = time.monotonic() + 300
    while not state.exists():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    (os.killpg if whole else os.kill)(process.pid, signal.SIGKILL)
    process.wait()
    wait_for_the_end_of_the_group(process.pid, until)
    assert not (tmp_path / "out" / "results.json").exists()
    subprocess.run(command, check=True)
    assert (tmp_path / "out" / "results.json").read_bytes() == (out / "results.json").read_bytes()

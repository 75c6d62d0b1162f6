"""A study's folder: who may work in it, and which of its cells still apply."""

import json
import shutil
import sys
from math import exp
from pathlib import Path

import pytest
import yaml

from scalenet_cli.bundle.manifest import digest_content
from scalenet_cli.errors import DeviceUnavailable, OutputInUse, RunDiffers
from scalenet_cli.reports.spread import spread_over, spread_text
from scalenet_cli.study.folder import StudyFolder, with_kept_arms
from scalenet_cli.study.plots import COMPUTE, CURVES, PARAMETERS, draw_plots
from scalenet_cli.study.results import markdown
from tests.cli.helpers import in_use, snapshot
from tests.study.helpers import NAN, SCALENET, Made, Watch, run_study, without, write_study


@pytest.mark.sample(2)
@pytest.mark.skipif(sys.platform == "win32", reason="there are no locks")
@pytest.mark.parametrize("where", ["", "cells/scalenet/seed-0"], ids=["a-command", "a-worker"])
def test_one_command_at_a_time(made: Made, tmp_path: Path, where: str) -> None:
    study, out, report, _ = made
    copy = shutil.copytree(out, tmp_path / "out")
    with in_use(copy / where):
        before = snapshot(copy)
        with pytest.raises(OutputInUse, match="another command is writing there: ") as raised:
            run_study(study, copy)
        assert raised.value.where == str(copy / where)
        assert snapshot(copy) == before
        assert run_study(study, copy, dry_run=True).results is None
    assert run_study(study, copy).results == report.results
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert sorted(path.name for path in copy.iterdir()) == sorted(p.name for p in out.iterdir())


def test_a_command_that_was_killed_at_once_blocks_nobody(made: Made, tmp_path: Path) -> None:
    study, _, report, _ = made
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").touch()
    assert run_study(study, tmp_path / "out", dry_run=True).arms == report.arms


@pytest.mark.sample(3)
@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("split", ["train", "val"])
def test_changed_data_are_noticed_before_anything_is_trained(
    made: Made, tmp_path: Path, split: str, *, finished: bool
) -> None:
    study, out, _, _ = made
    copy, watch = without(out, tmp_path / "out", "nan"), Watch()
    record = copy / "cells" / "swa" / "seed-0" / "run.json"
    entries = json.loads(record.read_text())
    entries[split]["digest"] = "0" * 64
    entries["digest"] = digest_content(entries)
    record.write_text(json.dumps(entries))
    if not finished:
        (copy / "cells" / "swa" / "seed-0.json").unlink()
    with pytest.raises(RunDiffers, match=r"on others: swa/seed-0\n") as raised:
        run_study(study, copy, watch)
    assert "put the data back" in str(raised.value.hint)
    assert watch.began_cells == []


def test_an_arm_that_comes_back_has_its_cells(made: Made, data: Path, tmp_path: Path) -> None:
    study, out, _, _ = made
    copy, watch = shutil.copytree(out, tmp_path / "out"), Watch()
    fewer = write_study(tmp_path, data, SCALENET, NAN)
    report = run_study(fewer, copy, watch)
    assert report.notes[0].startswith("the head is kept: the model has no class names")
    assert report.notes[1:] == ("cells that the study no longer names are left alone: swa/seed-0",)
    run_study(study, copy, watch)
    assert watch.began_cells == []
    for name in ("results.json", "study.yaml"):
        assert (copy / name).read_bytes() == (out / name).read_bytes()


def test_an_arm_of_another_source_does_not_come_back(made: Made) -> None:
    _, out, _, _ = made
    other = {"source": {"source": "other"}, "data": {}, "arms": {}}
    assert with_kept_arms(StudyFolder(out), other) == other


def test_a_torn_line_of_times_is_left_out(made: Made, tmp_path: Path) -> None:
    study, out, _, _ = made
    copy = without(out, tmp_path / "out")
    timings = copy / "cells" / "swa" / "seed-0" / "timings.jsonl"
    whole = timings.read_bytes()
    timings.write_bytes(whole + b'{"step": 9, "samp\xc3\n\0\0\n[1]\n{"step": 9}\n')
    run_study(study, copy)
    assert (copy / "results.json").read_bytes() == (out / "results.json").read_bytes()
    assert (copy / "timings.json").read_bytes() == (out / "timings.json").read_bytes()


def test_jobs_without_devices_are_refused_before_anything_is_written(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, _, _, _ = made
    asked: list[int] = []

    def refuse(jobs: int, device: str) -> None:
        asked.append(jobs)
        raise DeviceUnavailable("no GPU")

    monkeypatch.setattr("scalenet_cli.study.compare.choose_devices", refuse)
    with pytest.raises(DeviceUnavailable):
        run_study(study, tmp_path / "out", jobs=64)
    assert asked == [3]  # as many as there are cells
    assert not list(tmp_path.iterdir())


def test_huge_values_are_averaged_shown_and_drawn(made: Made, tmp_path: Path) -> None:
    huge = spread_over([exp(700), 12.5, None, exp(700)])
    assert huge is not None
    assert huge.std == pytest.approx(exp(700) / 3**0.5)
    assert len(spread_text(huge)) < 30
    results = made[2].results
    assert results is not None
    arms = [arm.model_copy(update={"best": huge, "last": huge}) for arm in results.arms]
    changed = results.model_copy(update={"arms": tuple(arms)})
    assert max(map(len, markdown(changed, {}).splitlines())) < 400
    assert draw_plots(changed, tmp_path) == (CURVES, PARAMETERS, COMPUTE)


def test_the_deviation_is_the_samples() -> None:
    found = spread_over([1.0, 2.0, 4.5])
    assert found is not None
    assert found.std == pytest.approx(1.8027756377319946, rel=1e-12)
    assert (found.mean, found.min, found.max, found.num_seeds) == (2.5, 1.0, 4.5, 3)
    alone = spread_over([7.0])
    assert alone is not None
    assert alone.std is None


def test_plots_of_earlier_results_do_not_stay(made: Made, tmp_path: Path) -> None:
    results = made[2].results
    assert results is not None
    for name in (CURVES, PARAMETERS, COMPUTE):
        (tmp_path / name).touch()
    only_nan = results.model_copy(update={"arms": results.arms[2:]})
    assert draw_plots(only_nan, tmp_path) == ()
    assert not list(tmp_path.iterdir())


def test_a_study_of_before_an_entry_of_recipes_goes_on(made: Made, tmp_path: Path) -> None:
    study, out, report, _ = made
    copy = shutil.copytree(out, tmp_path / "out")
    written = yaml.safe_load((copy / "study.yaml").read_text())
    for arm in written["arms"].values():
        del arm["recipe"]["lr_scale"]
    (copy / "study.yaml").write_text(yaml.safe_dump(written, sort_keys=False))
    assert run_study(study, copy).results == report.results
    for arm in written["arms"].values():
        arm["recipe"]["lr"] = 1.0
    (copy / "study.yaml").write_text(yaml.safe_dump(written, sort_keys=False))
    with pytest.raises(RunDiffers, match="recipe changed"):
        run_study(study, copy)

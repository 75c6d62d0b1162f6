"""What is wrong with a run's files is found before it goes on, or does not change its result."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from scalenet_cli.errors import NotARun, RunStateDamaged
from scalenet_cli.tasks.image_classification.recipe import ImageRecipe
from scalenet_cli.training.run_folder import FileStart, RunFolder
from scalenet_cli.training.saved_bundles import check_saved
from scalenet_cli.training.state import read_state
from tests.training.runs import (
    PLAIN,
    InterruptAt,
    Interrupted,
    Listener,
    contents,
    slow,
    train,
)

# Evaluations and checkpoints after 2 and 4 steps and at the end; that of step 4 is the best.
SHORT = {**PLAIN, "max_steps": 5, "eval_steps": 2, "lr": 4e-2}
STATE = "state-000000002/state.json"
FILES = [STATE, "metrics.jsonl", "last/manifest.json", "best/manifest.json", "recipe.yaml",
         "run.json"]  # fmt: skip
Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def whole(bundle: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody disturbs."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train(bundle, data, run, SHORT)
    return run


@pytest.fixture(scope="module")
def early(bundle: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, ended in step 4: its state is of step 2."""
    run = tmp_path_factory.mktemp("early") / "run"
    with pytest.raises(Interrupted):
        train(bundle, data, run, SHORT, reporter=InterruptAt(4))
    return run


@pytest.fixture(scope="module")
def late(bundle: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, ended in step 5: its state is of step 4."""
    run = tmp_path_factory.mktemp("late") / "run"
    with pytest.raises(Interrupted):
        train(bundle, data, run, SHORT, reporter=InterruptAt(5))
    assert contents(run)["best/manifest.json"] == contents(run)["last/manifest.json"]
    return run


def resume(bundle: Path, data: Path, run: Path) -> list[str]:
    """Goes on with the run, by its own recipe; returns the notes."""
    listener = Listener()
    train(bundle, data, run, {}, resume=True, reporter=listener)
    return listener.notes


def assert_refused(bundle: Path, data: Path, run: Path, *says: str) -> None:
    """It does not go on, and nothing in its folder changes."""
    before = contents(run)
    with pytest.raises(RunStateDamaged) as raised:
        resume(bundle, data, run)
    assert all(fact in str(raised.value) for fact in says), str(raised.value)
    assert raised.value.exit_code == 3
    assert contents(run) == before


def flip(path: Path, bit: int) -> None:
    """Changes one bit; a file with several names keeps its other ones as they are."""
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.unlink()
    path.write_bytes(content)


def bits(path: Path, count: int) -> list[int]:
    """Bits of a file, drawn with a seed."""
    return random.Random(7).sample(range(8 * path.stat().st_size), count)


@pytest.mark.parametrize(
    ("name", "count"), [("metrics.jsonl", 3), *(slow(name, 40) for name in FILES)]
)
def test_a_flipped_bit_is_named_or_changes_nothing(
    bundle: Path, data: Path, tmp_path: Path, whole: Path, early: Path, name: str, count: int
) -> None:
    for bit in bits(early / name, count):
        run = Path(shutil.copytree(early, tmp_path / str(bit)))
        flip(run / name, bit)
        before = contents(run)
        refusal = None
        try:
            resume(bundle, data, run)
        except (RunStateDamaged, NotARun) as error:
            refusal = error
        if refusal is not None:
            assert refusal.exit_code == 3
            assert Path(name).name in str(refusal) or f"{Path(name).parent}/" in str(refusal)
            assert contents(run) == before
            continue
        found, expected = contents(run), contents(whole)
        if name in ("best/manifest.json", "run.json"):  # its white space: not written again
            del found[name], expected[name]
        assert found == expected, bit


def _believed(run: Path, last_step: int) -> object:
    """All that a resume takes from the files that are no tensors."""
    folder = RunFolder(run)
    folder.require_own()
    state = read_state(run)
    assert state is not None
    assert state.sealed
    progress = state.progress
    folder.require_metrics(FileStart(progress.metrics_bytes, progress.metrics_sha256))
    start = folder.open_start()
    saved = check_saved(folder, start, progress, last_step, sealed=True)
    return folder.record(), folder.recipe(ImageRecipe), progress, state.numbers, saved


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("name", "count"),
    [(name, 15) for name in FILES]
    + [slow(name, 600 if "manifest" in name else 5000) for name in FILES],
)
def test_no_flipped_byte_is_believed(tmp_path: Path, early: Path, name: str, count: int) -> None:
    """One bit of every byte; of files that have more bytes, of so many."""
    run = Path(shutil.copytree(early, tmp_path / "run"))
    expected, original = _believed(run, 5), (run / name).read_bytes()
    chooser = random.Random(8)
    tried, refused = range(0, len(original), -(-len(original) // count)), 0
    for at in tried:
        flip(run / name, 8 * at + chooser.randrange(8))
        try:
            assert _believed(run, 5) == expected
        except (RunStateDamaged, NotARun):
            refused += 1
        (run / name).write_bytes(original)
    assert refused > len(tried) // 3


def _edited(old: str, new: str) -> Change:
    def change(run: Path) -> None:
        path = run / STATE
        text = path.read_text()
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))

    change.__name__ = new
    return change


def _renamed_state(run: Path) -> None:
    (run / STATE).parent.rename(run / "state-000000003")


def _exchanged(run: Path) -> None:
    shutil.rmtree(run / "best")
    shutil.copytree(run / "start", run / "best")


def _damaged_tensors(run: Path) -> None:
    flip(run / "last" / "adapters.safetensors", 8 * 2000)


def _truncated_best(run: Path) -> None:
    path = run / "best" / "adapters.safetensors"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-1])


def _edited_metrics(run: Path) -> None:
    content = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(content.replace(b'"step": 1', b'"step": 0', 1))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_edited('"step": 2', '"step": 3'), "state.json has another digest"),
        slow(_edited('"best_step": 2', '"best_step": 0'), "state.json has another digest"),
        slow(_renamed_state, "state.json is of step 2, not of its folder's"),
        slow(_exchanged, "best/ is not the one that step 2 left"),
        (_damaged_tensors, "last/ is damaged: "),
        slow(_truncated_best, "best/ is damaged: adapters.safetensors has"),
        (_edited_metrics, "metrics.jsonl is not what was written"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_changed_runs_are_refused(
    bundle: Path, data: Path, tmp_path: Path, early: Path, change: Change, says: str
) -> None:
    run = Path(shutil.copytree(early, tmp_path / "run"))
    change(run)
    assert_refused(bundle, data, run, says)


def test_an_ended_run_is_checked_too(
    bundle: Path, data: Path, tmp_path: Path, whole: Path, late: Path
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    shutil.rmtree(run / "last")
    assert_refused(bundle, data, run, "the run has ended, and its last/ is missing")
    shutil.copytree(late / "last", run / "last")
    assert_refused(bundle, data, run, "last/ is not the one that step 5 left")


def test_an_older_bundle_is_refused(
    bundle: Path, data: Path, tmp_path: Path, early: Path, late: Path
) -> None:
    run = Path(shutil.copytree(late, tmp_path / "run"))
    shutil.rmtree(run / "last")
    shutil.copytree(early / "last", run / "last")
    assert_refused(bundle, data, run, "last/ is not the one that step 4 left")


@pytest.mark.slow
def test_a_bundle_of_another_run_is_refused(
    bundle: Path, data: Path, tmp_path: Path, early: Path
) -> None:
    other = tmp_path / "other"
    with pytest.raises(Interrupted):
        train(bundle, data, other, {**SHORT, "lr": 1e-3}, reporter=InterruptAt(4))
    run = Path(shutil.copytree(early, tmp_path / "another"))
    shutil.rmtree(run / "last")
    shutil.copytree(other / "last", run / "last")
    assert_refused(bundle, data, run, "last/ is not the one that step 2 left")


@pytest.mark.slow
def test_a_newer_best_without_its_last_is_refused(
    bundle: Path, data: Path, tmp_path: Path, early: Path, late: Path
) -> None:
    """No kill leaves that: it was put there."""
    run = Path(shutil.copytree(early, tmp_path / "run"))
    shutil.rmtree(run / "best")
    shutil.copytree(late / "best", run / "best")
    assert_refused(bundle, data, run, "best/ is not the one that step 2 left")


@pytest.mark.parametrize("names", [slow(["last"]), ["last", "best"]], ids="+".join)
def test_newer_bundles_beside_an_older_state_are_a_kill_between_them(
    bundle: Path, data: Path, tmp_path: Path, whole: Path, early: Path, late: Path,
    names: list[str],
) -> None:  # fmt: skip
    run = Path(shutil.copytree(early, tmp_path / "run"))
    for name in names:
        shutil.rmtree(run / name)
        shutil.copytree(late / name, run / name)
    assert resume(bundle, data, run) == []
    assert contents(run) == contents(whole)


@pytest.mark.slow
def test_a_kill_between_two_renames(
    bundle: Path, data: Path, tmp_path: Path, whole: Path, early: Path
) -> None:
    """Where names cannot change places in one step, the old bundle waits under another name."""
    run = Path(shutil.copytree(early, tmp_path / "run"))
    (run / ".best.x.old").mkdir()
    (run / "best").rename(run / ".best.x.old" / "bundle")
    (run / ".last.x.partial").mkdir()
    assert resume(bundle, data, run) == []
    assert contents(run) == contents(whole)


def test_bundles_that_somebody_removed(
    bundle: Path, data: Path, tmp_path: Path, whole: Path, early: Path
) -> None:
    run = Path(shutil.copytree(early, tmp_path / "run"))
    shutil.rmtree(run / "last")
    assert resume(bundle, data, run) == ["last/ is missing; the next checkpoint writes it anew"]
    assert contents(run) == contents(whole)
    run = Path(shutil.copytree(early, tmp_path / "another"))
    shutil.rmtree(run / "best")
    (told,) = resume(bundle, data, run)
    assert told.startswith("best/ is missing; that of step 2 is forgotten")
    assert contents(run)["last/manifest.json"] == contents(whole)["last/manifest.json"]
    (state,) = run.glob("state-*")
    progress = json.loads((state / "state.json").read_text())["progress"]
    best = json.loads((run / "best" / "manifest.json").read_text())
    assert best["digest"] == progress["bundles"]["best"]
    assert best["trained"]["steps"] == progress["best_step"] > 2


@pytest.mark.slow
def test_a_folder_beside_the_states_is_none_of_them(
    bundle: Path, data: Path, tmp_path: Path, whole: Path, early: Path
) -> None:
    """A copy that somebody kept is not the newest state, and is not removed."""
    run = Path(shutil.copytree(early, tmp_path / "run"))
    kept = run / "state-000000002.backup"
    shutil.copytree((run / STATE).parent, kept)
    resume(bundle, data, run)
    assert kept.is_dir()
    shutil.rmtree(kept)
    assert contents(run) == contents(whole)

"""What comes out of a run: a bundle that loads, counts and verifies, whatever was trained."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from scalenet_cli import ScalenetError, count_params, load, verify
from scalenet_cli.bundle.manifest import Manifest, TrainedEntry
from scalenet_cli.bundle.read import map_tensors, open_bundle
from scalenet_cli.bundle.trained import write_trained
from scalenet_cli.models.load import load_bundle
from scalenet_cli.surgery import verify_ties
from tests.models import TinyCase, tiny_case
from tests.training.runs import (
    PLAIN,
    RECIPE,
    expand_case,
    parameters_of,
    slow,
    state_of,
    train,
    watched,
    write_bundle,
    write_data,
)

SHORT = {**PLAIN, "max_steps": 3, "eval_steps": 3}


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other classes, and not as many as the tiny models have."""
    return write_data(tmp_path_factory.mktemp("three"), classes=3)


@pytest.fixture(scope="module")
def data32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of Swin's size."""
    return write_data(tmp_path_factory.mktemp("data32"), size=32, train=18, val=6)


def manifest_of(folder: Path) -> Manifest:
    return open_bundle(folder).manifest


def trained_of(folder: Path) -> TrainedEntry:
    entry = manifest_of(folder).trained
    assert entry is not None
    return entry


def trainable(model: nn.Module) -> set[str]:
    return {key for key, parameter in model.named_parameters() if parameter.requires_grad}


def assert_is_what_was_trained(run: Path, trained: Mapping[str, torch.Tensor]) -> None:
    """``last`` loads as the model whose optimizer made these tensors, and is sound."""
    model = load(run / "last")
    loaded = parameters_of(model)
    for key, tensor in trained.items():
        assert torch.equal(loaded[key], tensor), key
    verify(run / "last")
    verify_ties(model, manifest_of(run / "last").ties)
    stored = sum(parameter.numel() for parameter in model.parameters())
    assert count_params(str(run / "last")).stored == stored
    inputs = torch.randn(2, 3, *model.patch_embed.img_size)
    assert model(inputs).shape == (2, trained_of(run / "last").num_classes)


@pytest.mark.parametrize("name", [*map(slow, ("vit", "swin", "deit_distilled"))])
def test_everything_trained(data: Path, data32: Path, tmp_path: Path, name: str) -> None:
    bundle, run = write_bundle(tmp_path / "bundle", name), tmp_path / "run"
    kept = parameters_of(load(bundle))
    with watched() as watch:
        train(bundle, data32 if name == "swin" else data, run, {**SHORT, "train": "all"})
    assert watch.steps[-1].tensors.keys() == kept.keys()
    assert_is_what_was_trained(run, watch.steps[-1].tensors)
    base = map_tensors(open_bundle(run / "last"), "base")
    before = map_tensors(open_bundle(bundle), "base")
    assert base.keys() == before.keys()
    assert not all(torch.equal(base[key], before[key]) for key in base)
    # The model trains in memory that was mapped from the start's files: they have to stay.
    assert all(torch.equal(kept[key], value) for key, value in parameters_of(load(bundle)).items())
    verify(run / "start", source=str(bundle.with_name("bundle-source")))
    with pytest.raises(ScalenetError, match="the base was trained"):
        verify(run / "last", source=str(bundle.with_name("bundle-source")))


@pytest.mark.parametrize("name", [slow("vit"), slow("swin"), "deit_distilled"])
def test_other_classes_get_a_new_head(three: Path, tmp_path: Path, name: str, data32: Path) -> None:
    bundle, run = write_bundle(tmp_path / "bundle", name), tmp_path / "run"
    data = write_data(tmp_path / "three", size=32, classes=3, train=18) if name == "swin" else three
    with watched() as watch:
        report = train(bundle, data, run, SHORT)
    assert (report.num_classes, report.new_head) == (3, True)
    assert "head" in report.trained_groups
    heads = [key for key in watch.steps[-1].tensors if key.startswith("head")]
    assert all(watch.steps[-1].tensors[key].shape[0] == 3 for key in heads)
    assert len(heads) == (4 if name == "deit_distilled" else 2)
    assert_is_what_was_trained(run, watch.steps[-1].tensors)
    assert set(trained_of(run / "last").classes) == {"class0", "class1", "class2"}
    # Nothing of the source is lost: the old head is still in the base.
    verify(run / "last", source=str(bundle.with_name("bundle-source")))


def test_a_model_without_a_head_gets_one_that_counts(data: Path, tmp_path: Path) -> None:
    case = tiny_case("vit")
    case.model.reset_classifier(0)
    arguments = {**case.architecture.arguments, "num_classes": 0}
    headless = replace(case, architecture=replace(case.architecture, arguments=arguments))
    bundle = expand_case(headless, tmp_path / "bundle", train="all")
    assert "head" not in load_bundle(bundle).groups.values()
    with watched() as watch:
        report = train(bundle, data, tmp_path / "run", SHORT)
    assert (report.num_classes, report.new_head) == (5, True)
    assert_is_what_was_trained(tmp_path / "run", watch.steps[-1].tensors)
    numbers = manifest_of(tmp_path / "run/last").parameters
    trained = {key: tensor.numel() for key, tensor in watch.steps[-1].tensors.items()}
    assert numbers.trainable == report.trained_parameters == sum(trained.values())
    head = [size for key, size in trained.items() if key.startswith("head.")]
    assert numbers.trainable_groups["head"] == sum(head) > 0


def test_equal_number_of_classes_keeps_the_head(bundle: Path, data: Path, tmp_path: Path) -> None:
    before = parameters_of(load(bundle))
    report = train(bundle, data, tmp_path / "run", SHORT)
    assert (report.num_classes, report.new_head) == (5, False)
    assert "head" not in report.trained_groups
    after = parameters_of(load(tmp_path / "run/last"))
    assert torch.equal(after["head.weight"], before["head.weight"])


def test_reset_head_trains_a_new_one(bundle: Path, data: Path, tmp_path: Path) -> None:
    before = parameters_of(load(bundle))
    with watched() as watch:
        report = train(bundle, data, tmp_path / "run", SHORT, reset_head=True)
    assert report.new_head
    first = watch.steps[0].tensors["head.weight"]
    assert (first - before["head.weight"]).abs().max() > 0.01
    assert_is_what_was_trained(tmp_path / "run", watch.steps[-1].tensors)


def test_trained_bundle_is_trained_further(bundle: Path, three: Path, tmp_path: Path) -> None:
    """A new head, then the norms, then everything: each run keeps what the earlier ones made."""
    with watched() as watch:
        train(bundle, three, tmp_path / "one", SHORT)
    one = watch.steps[-1].tensors.keys()
    assert "head.weight" in one
    assert trainable(load(tmp_path / "one/last")) == one
    first = parameters_of(load(tmp_path / "one/last"))
    with watched() as watch:
        report = train(tmp_path / "one", three, tmp_path / "two", {**SHORT, "train": ["norms"]})
    assert not report.new_head
    assert_is_what_was_trained(tmp_path / "two", watch.steps[-1].tensors)
    second = parameters_of(load(tmp_path / "two/last"))
    assert trainable(load(tmp_path / "two/last")) == one  # which has the norms
    norms = watch.steps[-1].tensors.keys()
    assert all(torch.equal(first[key], second[key]) for key in first.keys() - norms)
    assert any(not torch.equal(first[key], second[key]) for key in norms)
    with watched() as watch:
        train(tmp_path / "two/last", three, tmp_path / "three", {**SHORT, "train": "all"})
    assert_is_what_was_trained(tmp_path / "three", watch.steps[-1].tensors)
    entry = trained_of(tmp_path / "three/last")
    assert (entry.steps, entry.num_classes, entry.new_head) == (9, 3, True)
    # And back to instances only, on a base that is no longer the source's.
    with watched() as watch:
        train(tmp_path / "three/last", three, tmp_path / "four", SHORT)
    assert_is_what_was_trained(tmp_path / "four", watch.steps[-1].tensors)
    third, fourth = (parameters_of(load(tmp_path / run / "last")) for run in ("three", "four"))
    frozen = third.keys() - watch.steps[-1].tensors.keys()
    assert all(torch.equal(third[key], fourth[key]) for key in frozen)


@pytest.mark.sample(2)
@pytest.mark.parametrize("groups", [None, "all"])
def test_types_of_tensors_are_kept(data: Path, tmp_path: Path, groups: str | None) -> None:
    case = tiny_case("vit")
    bfloat = TinyCase(case.name, case.architecture, case.family, case.model.bfloat16(), case.inputs)
    bundle, run = expand_case(bfloat, tmp_path / "bundle"), tmp_path / "run"
    train(bundle, data, run, {**SHORT, "train": groups, "lr": 0.05})
    assert {value.dtype for value in parameters_of(load(run / "last")).values()} == {torch.bfloat16}
    verify(run / "last")
    state = state_of(run)
    trained = {key.removeprefix("model/") for key in state if key.startswith("model/")}
    last = parameters_of(load(run / "last"))
    for key in trained:
        assert state[f"model/{key}"].dtype == torch.float32
        assert torch.equal(last[key], state[f"model/{key}"].bfloat16()), key


def test_bundle_of_a_run_is_whole_without_the_run(bundle: Path, data: Path, tmp_path: Path) -> None:
    """Files are shared by links, never by references: each folder stands alone."""
    run = tmp_path / "run"
    train(bundle, data, run, SHORT)
    alone = (run / "best").rename(tmp_path / "alone")
    for path in sorted(run.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    verify(alone)
    assert load_bundle(alone).model is not None


@pytest.mark.parametrize("precision", ["bf16", slow("fp16")])
def test_half_precision_trains(bundle: Path, data: Path, tmp_path: Path, precision: str) -> None:
    recipe: dict[str, Any] = {**RECIPE, "max_steps": 3, "eval_steps": 3, "precision": precision}
    with watched() as watch:
        train(bundle, data, tmp_path / "run", {**recipe, "ema_decay": None})
    assert {value.dtype for value in watch.steps[-1].tensors.values()} == {torch.float32}
    assert all(torch.isfinite(value).all() for value in watch.steps[-1].tensors.values())
    assert_is_what_was_trained(tmp_path / "run", watch.steps[-1].tensors)


def test_a_file_of_somebody_elses_in_last_is_kept(data: Path, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path, "vit")
    train(bundle, data, tmp_path / "run", {**SHORT, "save_steps": 1, "max_steps": 1})
    start = open_bundle(tmp_path / "run" / "start")
    (tmp_path / "run" / "last" / "notes.txt").write_text("weeks of work")
    (tmp_path / "run" / "last" / "seen" / "by").mkdir(parents=True)
    (tmp_path / "run" / "last" / "seen" / "by" / "us.csv").write_text("1")
    (tmp_path / "run" / "last" / "newest").symlink_to("seen")
    manifest = manifest_of(tmp_path / "run" / "last")
    instances = dict(map_tensors(start, "instances"))
    write_trained(
        tmp_path / "run" / "last", start, manifest, base={}, instances=instances, story="again"
    )
    assert (tmp_path / "run" / "last" / "notes.txt").read_text() == "weeks of work"
    assert (tmp_path / "run" / "last" / "newest" / "by" / "us.csv").read_text() == "1"
    load(tmp_path / "run" / "last")

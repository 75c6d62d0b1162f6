"""Models that other people's loops trained: back into a bundle, by save and by save_pretrained."""

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import nn

import scalenet_cli
from scalenet_cli.bundle.read import open_bundle
from scalenet_cli.errors import OptionError, OutputExists, OutputInUse, SourceMismatch
from scalenet_cli.files.lock import sole_writer
from scalenet_cli.surgery.instance import AdjustedLinear
from tests.cli.helpers import snapshot
from tests.laws.building import make_model, make_plan, write_plan, write_source
from tests.models import TinyCase

every_kind = pytest.mark.parametrize(
    "case", ["vit", pytest.param("swin", marks=pytest.mark.slow), "llama_tied"], indirect=True
)
decoder = pytest.mark.parametrize("case", ["llama_tied"], indirect=True)


@pytest.fixture
def bundle(case: TinyCase, tmp_path: Path) -> Path:
    """The case, doubled."""
    source = write_source(case, tmp_path / "source")
    plan = write_plan(make_plan(case, start="identity"), tmp_path / "plan.yaml")
    scalenet_cli.expand_checkpoint(str(source), plan, tmp_path / "out")
    return tmp_path / "out"


def train(model: nn.Module, wanted: Callable[[str], bool]) -> None:
    """A step that moves some tensors."""
    torch.manual_seed(5)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if wanted(key):
                parameter.add_(torch.randn_like(parameter) * 0.1)


@pytest.mark.sample(3)
@every_kind
@pytest.mark.parametrize(
    ("wanted", "groups", "linked"),
    [
        (lambda key: "adapter" in key, {"adapters"}, True),
        (lambda key: "gate" in key.split(".") or "norm" in key, {"gates", "norms"}, True),
        (lambda key: True, None, False),
    ],
)
def test_what_was_trained_outside_comes_back(
    case: TinyCase, bundle: Path, wanted: Any, groups: set[str] | None, linked: bool, tmp_path: Path
) -> None:
    model = scalenet_cli.load(bundle)
    train(model, wanted)
    output = tmp_path / "saved"
    scalenet_cli.save(model, output, start=bundle, steps=7)
    again = scalenet_cli.load(output)
    assert torch.equal(case.logits(again), case.logits(model))
    assert not torch.equal(case.logits(again), case.logits(scalenet_cli.load(bundle)))
    trained = open_bundle(output).manifest.trained
    assert trained.steps == 7
    assert groups is None or set(trained.groups) == groups
    same = [(folder / "model.safetensors").stat().st_ino for folder in (bundle, output)]
    assert (same[0] == same[1]) is linked
    with pytest.raises(OutputExists):
        scalenet_cli.save(model, output, start=bundle)
    scalenet_cli.save(model, output, start=output, force=True)
    assert torch.equal(case.logits(scalenet_cli.load(output)), case.logits(model))


@pytest.mark.sample(2)
@every_kind
def test_models_of_another_kind_are_not_saved(case: TinyCase, bundle: Path, tmp_path: Path) -> None:
    output = tmp_path / "saved"
    model = scalenet_cli.load(bundle)
    with pytest.raises(OptionError, match="the model has no tensor"):
        scalenet_cli.save(case.model, output, start=bundle)
    wrapped = nn.ModuleDict({"module": model})
    with pytest.raises(OptionError, match="the model has no tensor"):
        scalenet_cli.save(wrapped, output, start=bundle)
    adjusted = next(m for m in model.modules() if isinstance(m, AdjustedLinear) and m.adapter)
    adjusted.adapter.to("meta")
    with pytest.raises(OptionError, match="has no data"):
        scalenet_cli.save(model, output, start=bundle)
    assert not output.exists()


@decoder
def test_save_pretrained_writes_what_load_reads_and_nothing_that_is_misread(
    case: TinyCase, bundle: Path, tmp_path: Path
) -> None:
    model: Any = scalenet_cli.load(bundle)
    train(model, lambda key: "adapter" in key or "gate" in key)
    model.save_pretrained(tmp_path / "saved")
    again = scalenet_cli.load(tmp_path / "saved")
    assert torch.equal(case.logits(again), case.logits(model))
    for read in (transformers.AutoModelForCausalLM, transformers.LlamaForCausalLM):
        with pytest.raises(StrictDataclassError, match=r"to be read with scalenet_cli\.load"):
            read.from_pretrained(tmp_path / "saved")
    with pytest.raises(OptionError, match="cannot be pushed"):
        model.save_pretrained(tmp_path / "saved", push_to_hub=True)
    other = write_plan(make_plan(case, factor=3), tmp_path / "other.yaml")
    scalenet_cli.expand_checkpoint(str(tmp_path / "source"), other, bundle, force=True)
    with pytest.raises(SourceMismatch):
        model.save_pretrained(tmp_path / "other")


@every_kind
def test_nobody_saves_where_another_command_writes(bundle: Path, tmp_path: Path) -> None:
    model, output = scalenet_cli.load(bundle), tmp_path / "saved"
    with ThreadPoolExecutor(1) as other, sole_writer(output):
        saving = other.submit(scalenet_cli.save, model, output, start=bundle)
        with pytest.raises(OutputInUse):
            saving.result()
    assert not output.exists()


@decoder
def test_save_pretrained_replaces_no_part_of_a_bundle(
    case: TinyCase, bundle: Path, tmp_path: Path
) -> None:
    """Files of a bundle have other names too: every bundle of a run shares its base."""
    model: Any = scalenet_cli.load(bundle)
    shutil.copytree(bundle, tmp_path / "twin", copy_function=os.link)
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    with pytest.raises(OutputExists, match="the folder is a bundle"):
        model.save_pretrained(bundle)
    for folder in (bundle, tmp_path / "twin"):
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@decoder
def test_save_pretrained_does_not_write_into_a_file_that_is_mapped(
    case: TinyCase, tmp_path: Path
) -> None:
    source = write_source(case, tmp_path / "source")
    model: Any = scalenet_cli.expand_module(
        transformers.AutoModelForCausalLM.from_pretrained(source),
        make_plan(case, start="identity"),
        family="llama",
    )
    os.link(source / "model.safetensors", tmp_path / "kept")
    before = (tmp_path / "kept").read_bytes()
    (source / "config.json").unlink()  # with it, the folder would be refused as another model's
    model.save_pretrained(source)
    assert (tmp_path / "kept").read_bytes() == before
    assert (source / "model.safetensors").read_bytes() != before


@decoder
def test_save_pretrained_replaces_no_other_model(
    case: TinyCase, bundle: Path, tmp_path: Path
) -> None:
    model: Any = scalenet_cli.load(bundle)
    before = snapshot(tmp_path / "source")
    with pytest.raises(OutputExists, match="holds another model"):
        model.save_pretrained(tmp_path / "source")
    assert snapshot(tmp_path / "source") == before
    for _ in range(2):  # its own files are replaced
        model.save_pretrained(tmp_path / "saved")


def trainer(model: nn.Module, folder: Path, steps: int) -> transformers.Trainer:
    tokens = [{"input_ids": [4, 5, 6, 7], "labels": [4, 5, 6, 7]}] * 8
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), max_steps=steps, save_steps=2, per_device_train_batch_size=2,
        report_to=[], use_cpu=True, learning_rate=1e-2, seed=3, disable_tqdm=True,
    )  # fmt: skip
    return transformers.Trainer(model, arguments, train_dataset=tokens)


@pytest.mark.sample(2)
@decoder
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("from_bundle", [True, False])
def test_checkpoints_of_trainer(
    case: TinyCase, bundle: Path, from_bundle: bool, tmp_path: Path
) -> None:
    def fresh() -> nn.Module:
        return scalenet_cli.load(bundle) if from_bundle else make_model(case, start="identity")

    whole = fresh()
    trainer(whole, tmp_path / "whole", 4).train()
    assert not torch.equal(case.logits(whole), case.logits(fresh()))
    resumed = fresh()
    half = trainer(resumed, tmp_path / "whole", 4)
    half.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-2"))
    assert torch.equal(case.logits(resumed), case.logits(whole))
    if from_bundle:
        saved = scalenet_cli.load(tmp_path / "whole/checkpoint-4")
        assert torch.equal(case.logits(saved), case.logits(whole))

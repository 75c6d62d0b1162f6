"""A model of CIFAR-10 on Fashion-MNIST: as many classes, folders of the same names, other data."""

from pathlib import Path
from typing import Any

import pytest

from scalenet_cli import expand_checkpoint
from scalenet_cli.commands.finetune import FinetuneReport, finetune
from scalenet_cli.tasks.requests import FinetuneOptions
from scalenet_cli.training.data import DataOptions
from scalenet_cli.training.run_training import Work
from tests.slow.test_real_weights import VIT, asset, write_plan

pytestmark = [
    pytest.mark.assets,
    pytest.mark.slow,
    # timm's folder reader leaves closing its images to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
RECIPE = {
    "epochs": 2, "eval_epochs": 2, "batch_size": 128, "lr": 1e-3, "min_lr": 1e-5,
    "warmup_epochs": 0.5, "no_aug": True, "mixup": 0, "cutmix": 0, "reprob": 0,
}  # fmt: skip


def trained(bundle: Path, data: str, output: Path, **options: Any) -> FinetuneReport:
    data_options = DataOptions(str(asset(data)), limit_train=3000, limit_val=1000)
    chosen = FinetuneOptions(
        settings=RECIPE, device="cpu", work=Work(workers=0, eval_batch_size=500), **options
    )
    return finetune(bundle, data_options, output, chosen)


def test_a_head_of_other_classes_is_told_and_a_new_one_learns_more(tmp_path: Path) -> None:
    checkpoint = asset("vit_cifar10_tiny") / "vit_tiny_cifar10.pth"
    plan = write_plan(tmp_path, "interpolate", "identity")
    expand_checkpoint(str(checkpoint), plan, tmp_path / "out", options=VIT)
    own = trained(tmp_path / "out", "cifar10", tmp_path / "own")
    assert own.classes == "assumed"
    assert [note for note in own.notes if "before training" in note] == []
    kept = trained(tmp_path / "out", "fashion_mnist", tmp_path / "kept")
    assert (kept.classes, kept.new_head) == ("assumed", False)
    assert "the head is not trained: if its classes are not the data's" in kept.notes[-1]
    new = trained(tmp_path / "out", "fashion_mnist", tmp_path / "new", reset_head=True)
    assert (new.classes, new.notes) == (
        "new", ("the head is new: 10 classes, and it is trained too",),
    )  # fmt: skip
    assert kept.before < 10
    assert new.last["top1"] > kept.last["top1"] + 15

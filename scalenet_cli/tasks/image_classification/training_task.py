"""Image classification as a task of the engine."""

import warnings
from collections.abc import Collection, Sequence
from typing import Any, ClassVar, Final, final

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from scalenet_cli.errors import DataUnreadable
from scalenet_cli.families.base import Family
from scalenet_cli.plan.layout import Layout
from scalenet_cli.plan.schema import Group
from scalenet_cli.surgery.expand import spread_drop_path
from scalenet_cli.tasks.image_classification.data.samples import (
    MAX_REPLACEMENTS,
    Batch,
    EvaluationSamples,
    Sample,
    TrainingSamples,
    collate,
    evaluation_transform,
    training_transform,
)
from scalenet_cli.tasks.image_classification.data.splits import Split
from scalenet_cli.tasks.image_classification.evaluation.accuracy import evaluate, require_readable
from scalenet_cli.tasks.image_classification.evaluation.guessing import guessed_share, is_guessing
from scalenet_cli.tasks.image_classification.metrics import METRICS
from scalenet_cli.tasks.image_classification.objective import OBJECTIVES, Mixing, check_mixup
from scalenet_cli.tasks.image_classification.recipe import ImageRecipe
from scalenet_cli.training.base_model import base_outputs
from scalenet_cli.training.devices import Devices
from scalenet_cli.training.objective import Loss
from scalenet_cli.training.order import epoch_order
from scalenet_cli.training.training_task import Run, Scores, Skipped


@final
class ImageTask:
    """Labelled images of two splits; see training.training_task.TrainingTask.

    ``config`` is timm's data config: how images are prepared.
    """

    metric: ClassVar[str] = METRICS[0].name
    larger_is_better: ClassVar[bool] = METRICS[0].larger_is_better
    even: ClassVar[bool] = True
    default_workers: ClassVar[int] = 4
    bundle_name: ClassVar[str] = "bundle"
    same_options: ClassVar[tuple[str, ...]] = (
        "--limit-train", "--limit-val", "--class-map", "--num-classes", "--reset-head",
    )  # fmt: skip

    def __init__(
        self,
        recipe: ImageRecipe,
        train: Split,
        val: Split,
        *,
        config: dict[str, Any],
        num_classes: int,
        skip_corrupt: bool,
    ) -> None:
        # Pillow warns of images from 90 million pixels on, and refuses twice as many.
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        self._recipe, self._skip_corrupt = recipe, skip_corrupt
        self._val, self._num_classes = val, num_classes
        self.place: Final = train.place
        self.sizes: Final = (len(train), len(val))
        self.training: Final = TrainingSamples(
            train, training_transform(recipe, config), recipe.seed, skip_corrupt=skip_corrupt
        )
        self.validation: Final = EvaluationSamples(val, evaluation_transform(config))
        self._example = torch.zeros(tuple(config["input_size"]))
        self._mixing = Mixing(recipe, num_classes)
        self._objective = OBJECTIVES["cross-entropy"](recipe)
        self._base: tuple[nn.Module, Layout] | None = None

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Stacks what could be read."""
        return collate(samples)

    def order(self, epoch: int) -> torch.Tensor:
        """A permutation of the training images."""
        return epoch_order(self.sizes[0], self._recipe.seed, epoch)

    def check(self, micro_batch: int) -> None:
        """See TrainingTask: mixup pairs images."""
        check_mixup(self._recipe, micro_batch)

    def prepare(self, model: nn.Module, layout: Layout, family: Family) -> None:
        """The recipe's stochastic depth and memory layout."""
        self._base = (model, layout)
        if self._recipe.drop_path is not None:
            spread_drop_path(model, layout, self._recipe.drop_path, family)
        if self._recipe.channels_last:
            model.to(memory_format=torch.channels_last)

    def accept(self, batch: Batch, size: int) -> tuple[Skipped, ...]:
        """See TrainingTask; every damaged image was replaced by another one."""
        skipped = tuple(require_readable(batch, skip=self._skip_corrupt))
        _require_whole(batch.images, size)
        return skipped

    def num_targets(self, batch: Batch) -> int:
        """One per image."""
        return len(batch.targets)

    def loss(
        self, run: Run, batch: Batch, device: torch.device, *, epoch: int, purpose: str
    ) -> Loss:
        """The objective's, of mixed images."""
        layout = torch.channels_last if self._recipe.channels_last else torch.preserve_format
        images, targets = self._mixing.prepare(
            batch.images.to(device, non_blocking=True, memory_format=layout),
            batch.targets.to(device, non_blocking=True),
            epoch=epoch,
            purpose=purpose,
        )
        teacher = None
        if self._objective.wants_teacher:
            assert self._base is not None
            teacher = base_outputs(*self._base, lambda: run(images), compiled=self._recipe.compile)
        return self._objective.loss(run(images), targets, teacher)

    def remarks(self, before: float, trained: Collection[Group]) -> tuple[str, ...]:
        """A head that is not trained and no better than guessing is of other classes, it seems."""
        if "head" in trained:
            return ()
        guess = guessed_share(self._val, self._num_classes)
        if not is_guessing(before / 100, guess, len(self._val)):
            return ()
        return (
            f"before training {before:.2f} % of the validation images are right, and the most "
            f"frequent class alone is {100 * guess:.2f} % of them; the head is not trained: if "
            "its classes are not the data's, add --reset-head",
        )

    def evaluate(self, model: nn.Module, batches: "DataLoader[Any]", devices: Devices) -> Scores:
        """Accuracies in per cent."""
        found = evaluate(
            model,
            batches,
            devices,
            sample=self._example,
            precision=self._recipe.precision,
            skip_corrupt=self._skip_corrupt,
            channels_last=self._recipe.channels_last,
        )
        metrics = {"top1": found.top1, "top5": found.top5}
        text = f"top-1 {found.top1:.2f} %, top-5 {found.top5:.2f} %, loss {found.loss:.4f}"
        return Scores(found.loss, metrics, text, found.corrupt)


def _require_whole(images_BCHW: torch.Tensor, size: int) -> None:
    """Every damaged image of a micro-batch was replaced by another one.

    Raises:
        DataUnreadable: some could not be.
    """
    if len(images_BCHW) != size:
        raise DataUnreadable(
            f"of {size} images only {len(images_BCHW)} can be decoded, the next "
            f"{MAX_REPLACEMENTS} after each included",
            hint="too many images are damaged: repair the data",
        )

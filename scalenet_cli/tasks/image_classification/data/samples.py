"""Samples as tensors. What is random about one is a pure function of seed, epoch and sample."""

from collections.abc import Sequence
from typing import Any, NamedTuple, final

import torch
from PIL import UnidentifiedImageError
from timm.data import create_transform
from torch.utils.data import Dataset

from scalenet_cli.tasks.image_classification.data.splits import IMAGE_ERRORS, Split
from scalenet_cli.tasks.image_classification.recipe import ImageRecipe
from scalenet_cli.training.order import Place
from scalenet_cli.training.seeding import seed_host
from scalenet_cli.training.training_task import Skipped

# How often training may move on to the next sample where one cannot be read.
MAX_REPLACEMENTS = 20


class Batch(NamedTuple):
    """Shapes: images (B, C, H, W), targets (B,), indices (B,): positions in the split."""

    images: torch.Tensor
    targets: torch.Tensor
    indices: torch.Tensor
    corrupt: tuple[Skipped, ...]


Sample = tuple[torch.Tensor | None, int, int, tuple[Skipped, ...]]


def training_transform(recipe: ImageRecipe, config: dict[str, Any]) -> Any:
    """Timm's augmentation, without timm's prefetcher: erasing is then random per sample too."""
    if recipe.no_aug:
        return evaluation_transform(config)
    return create_transform(
        input_size=config["input_size"],
        is_training=True,
        scale=recipe.scale,
        ratio=recipe.ratio,
        hflip=recipe.hflip,
        vflip=recipe.vflip,
        color_jitter=recipe.color_jitter or None,
        auto_augment=recipe.aa or None,
        interpolation=recipe.train_interpolation,
        mean=config["mean"],
        std=config["std"],
        re_prob=recipe.reprob,
        re_mode=recipe.remode,
        re_count=recipe.recount,
    )


def evaluation_transform(config: dict[str, Any]) -> Any:
    """Timm's transform of a model's own preprocessing."""
    return create_transform(
        input_size=config["input_size"],
        is_training=False,
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
        crop_pct=config["crop_pct"],
        crop_mode=config["crop_mode"],
    )


@final
class TrainingSamples(Dataset[Sample]):
    """Augmented samples, addressed by epoch and position."""

    def __init__(self, split: Split, transform: Any, seed: int, *, skip_corrupt: bool) -> None:
        self.split = split
        self.transform = transform
        self.seed = seed
        self.skip_corrupt = skip_corrupt

    def __getitem__(self, place: Place) -> Sample:
        epoch, index = place
        seed_host(self.seed, f"sample {index} of epoch {epoch}")
        corrupt: list[Skipped] = []
        for attempt in range(MAX_REPLACEMENTS if self.skip_corrupt else 1):
            at = (index + attempt) % len(self.split)
            try:
                image, target = self.split.read(at)
            except IMAGE_ERRORS as error:
                corrupt.append(Skipped(self.split.name(at), _reason(error)))
                continue
            return self.transform(image), target, at, tuple(corrupt)
        return None, -1, index, tuple(corrupt)


@final
class EvaluationSamples(Dataset[Sample]):
    """Samples as the model's own preprocessing makes them, addressed by position."""

    def __init__(self, split: Split, transform: Any) -> None:
        self.split = split
        self.transform = transform

    def __getitem__(self, index: int) -> Sample:
        try:
            image, target = self.split.read(index)
        except IMAGE_ERRORS as error:
            return None, -1, index, (Skipped(self.split.name(index), _reason(error)),)
        return self.transform(image), target, index, ()


def _reason(error: Exception) -> str:
    """What is wrong with an image; Pillow names the file object where it knows no more."""
    if isinstance(error, UnidentifiedImageError):
        return "cannot identify image: no format that Pillow knows"
    return str(error) or repr(error)


def collate(samples: Sequence[Sample]) -> Batch:
    """Stacks what could be read; a batch may be empty."""
    good = [sample for sample in samples if sample[0] is not None]
    images = [image for image, *_ in good if image is not None]
    return Batch(
        torch.stack(images) if images else torch.empty(0),
        torch.tensor([target for _, target, _, _ in good], dtype=torch.long),
        torch.tensor([index for _, _, index, _ in good], dtype=torch.long),
        tuple(one for *_, corrupt in samples for one in corrupt),
    )

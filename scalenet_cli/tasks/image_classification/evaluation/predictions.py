"""What an evaluation tells about single images."""

from dataclasses import dataclass
from typing import final

import torch
from torch.nn import functional as F

from scalenet_cli.errors import LossNotFinite
from scalenet_cli.tasks.image_classification.data.splits import Split
from scalenet_cli.tasks.image_classification.evaluation.accuracy import top_classes
from scalenet_cli.training.devices import Devices

# Shape legend: B batch, K classes, N images.


@dataclass(frozen=True, slots=True)
class Predictions:
    """One entry per image that could be read, in the order of the split; all of shape (N,)."""

    indices: torch.Tensor
    targets: torch.Tensor
    predictions: torch.Tensor
    probabilities: torch.Tensor
    losses: torch.Tensor


@final
class Recorder:
    """Observes an evaluation: no output may be NaN; keeps what reports on images need."""

    def __init__(
        self,
        split: Split,
        num_classes: int,
        device: torch.device,
        *,
        keep_images: bool,
        keep_confusion: bool,
    ) -> None:
        self._split = split
        self._keep_images = keep_images
        self._parts: list[tuple[torch.Tensor, ...]] = []
        shape = (num_classes, num_classes) if keep_confusion else (0, 0)
        self._confusion = torch.zeros(shape, dtype=torch.int64, device=device)

    def __call__(self, indices: torch.Tensor, targets: torch.Tensor, logits: torch.Tensor) -> None:
        """See Observer.

        Raises:
            LossNotFinite: the model answers an image with NaN or infinity.
        """
        broken_B = ~logits.isfinite().all(dim=1)
        if broken_B.any():
            first = self._split.name(int(indices[broken_B.cpu()][0]))
            raise LossNotFinite(
                f"the model answers {int(broken_B.sum())} of {len(indices)} images of a batch with "
                "NaN or infinity",
                where=first,
                hint="a narrow type overflows: try --precision fp32; if it stays, the weights "
                "themselves are not finite",
            )
        best_B = top_classes(logits)[:, 0]
        if self._confusion.numel():
            place = (targets.to(self._confusion.device), best_B.to(self._confusion.device))
            self._confusion.index_put_(place, torch.ones_like(place[0]), accumulate=True)
        if self._keep_images:
            shares_BK = logits.double().softmax(dim=1)
            shares_B = shares_BK.gather(1, best_B[:, None])[:, 0]
            losses_B = F.cross_entropy(logits.double(), targets, reduction="none")
            columns = (indices, targets, best_B, shares_B, losses_B)
            self._parts.append(tuple(column.cpu() for column in columns))

    def confusion(self, devices: Devices) -> torch.Tensor:
        """Images by target (row) and prediction (column), of all ranks: (K, K)."""
        return devices.sum(self._confusion).cpu()

    def images(self, devices: Devices) -> Predictions:
        """Of all ranks, in the order of the split."""
        parts = [part for rank in devices.gather(self._parts) for part in rank]
        columns = [torch.cat(column) for column in zip(*parts, strict=True)]
        order = columns[0].argsort()
        return Predictions(*(column[order] for column in columns))

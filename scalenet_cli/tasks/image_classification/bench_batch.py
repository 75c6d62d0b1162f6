"""Random images for ``scalenet bench``."""

import torch
from torch.nn import functional as F

from scalenet_cli.measure.throughput import Work
from scalenet_cli.tasks.requests import BenchRequest


def make_images(request: BenchRequest) -> Work:
    """Normal pixels and uniform classes."""
    example = request.family.example_inputs(request.model, request.size, "cpu")["x"]
    images = torch.randn(request.batch_size, *example.shape[1:], device=request.device)
    if request.channels_last:
        images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(request.num_outputs, (request.batch_size,), device=request.device)
    return Work(
        inputs={"x": images},
        labels=labels,
        loss=_class_loss,
        device=request.device,
        autocast=request.autocast,
    )


def _class_loss(logits_BK: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits_BK.float(), labels_B)

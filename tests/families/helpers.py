"""What the tests of sources share."""

import torch
from torch import nn

from scalenet_cli.families.sources import Source


def holds(source: Source, model: nn.Module) -> bool:
    """The source's tensors are the model's parameters, bit for bit."""
    expected = dict(model.named_parameters())
    return source.tensors.keys() == expected.keys() and all(
        torch.equal(tensor.read(), expected[key]) for key, tensor in source.tensors.items()
    )

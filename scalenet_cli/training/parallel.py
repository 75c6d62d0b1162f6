"""One model over many ranks: DDP, or FSDP2 with what is tied in groups of its own."""

import warnings
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Literal, final

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from scalenet_cli.plan.layout import Layout
from scalenet_cli.training.devices import Devices

Sharding = Literal["ddp", "fsdp"]


@final
class Parallel:
    """A model as its ranks run it, each on its own device.

    ``model`` is the module itself, with its own keys; ``run`` is what is called in training.
    """

    def __init__(
        self, model: nn.Module, layout: Layout, devices: Devices, sharding: Sharding
    ) -> None:
        self.model = model
        self.sharded = sharding == "fsdp" and devices.num_ranks > 1
        self.run: nn.Module = model
        if self.sharded:
            # It moves each part to the device before it shards it: the whole need not fit there.
            _shard(model, layout, devices)
            return
        model.to(devices.device)
        if devices.num_ranks > 1:
            ids = [devices.device.index] if devices.device.type == "cuda" else None
            self.run = DistributedDataParallel(model, device_ids=ids)

    def accumulating(self, last: bool) -> Any:
        """A context in which gradients stay on their rank until the last micro-batch."""
        if self.sharded:
            assert isinstance(self.model, FSDPModule)
            self.model.set_requires_gradient_sync(last)
        elif isinstance(self.run, DistributedDataParallel) and not last:
            return self.run.no_sync()
        return nullcontext()

    def forget_gathered(self) -> None:
        """Drops whole copies of shards that a forward pass without a backward pass has left.

        The next forward pass would compute with them, even if the shards have changed since.
        """
        if self.sharded:
            for module in self.model.modules():
                if isinstance(module, FSDPModule):
                    module.reshard()


def _shard(model: nn.Module, layout: Layout, devices: Devices) -> None:
    """FSDP2 allows a parameter in one group only: the tied modules first, blocks, then the rest."""
    # Swin's blocks return views; nothing is done to them in place.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(devices.device.type, (devices.num_ranks,))
    uses = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    for module in list(model.modules()):
        own = list(module.parameters(recurse=False))
        if own and uses[id(module)] > 1:
            # Kept whole from first use to backward: a bias table is read, not called through.
            fully_shard(module, mesh=mesh, reshard_after_forward=isinstance(module, nn.Linear))
    for stage, slot in layout:
        fully_shard(model.get_submodule(f"{stage.path}.{slot.position}"), mesh=mesh)
    fully_shard(model, mesh=mesh)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor with all its shards, on the CPU; every rank has to ask."""
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().to("cpu", copy=True).contiguous()


def gathered(tensors: Mapping[str, torch.Tensor], *, keep: bool) -> dict[str, torch.Tensor]:
    """All tensors whole, on the CPU of the rank that keeps them; others only give their shards."""
    found = {}
    for key, tensor in tensors.items():
        if keep or isinstance(tensor, DTensor):
            full = whole(tensor)
            if keep:
                found[key] = full
    return found


def like(value: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A whole tensor, cut as another one is."""
    if isinstance(target, DTensor):
        return distribute_tensor(
            value.to(target.device, target.dtype), target.device_mesh, target.placements
        )
    return value.to(target.device, target.dtype)


@torch.no_grad()
def assign(targets: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]) -> None:
    """Copies whole tensors into those of the model."""
    for key, target in targets.items():
        target.copy_(like(values[key], target))

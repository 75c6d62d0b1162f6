"""Bytes that a pass over one model needs."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from scalenet_cli.measure.throughput import Step, TrainingStep


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes, each tensor counted once.

    Attributes:
        saved_activations: distinct storages that the forward pass keeps for the backward pass, but
            for those of parameters and buffers.
        peak: the most that the device had allocated for this model at one time; CUDA only.
    """

    parameters: int
    buffers: int
    gradients: int = 0
    optimizer: int = 0
    saved_activations: int = 0
    peak: int | None = None

    @property
    def accounted(self) -> int:
        """Everything but the peak, added up."""
        return (
            self.parameters
            + self.buffers
            + self.gradients
            + self.optimizer
            + self.saved_activations
        )


def num_bytes(*tensors: torch.Tensor) -> int:
    """Of the elements of all tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def inference_memory(model: nn.Module, step: Step, device: torch.device) -> Memory:
    """Of an inference step, after running it."""
    step()
    own = num_bytes(*model.parameters()), num_bytes(*model.buffers())
    return Memory(*own, peak=_peak(step, device, resident=sum(own), before=_allocated(device)))


def training_memory(step: TrainingStep, device: torch.device) -> Memory:
    """Of a training step, after running it; the optimizer has its state from then on."""
    before = _allocated(device)
    loss, saved = _forward_and_saved_bytes(step)
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = num_bytes(*(p.grad for p in step.trained if p.grad is not None))
    step.update()
    states = step.optimizer.state.values()
    optimizer = num_bytes(*(value for state in states for value in state.values()))
    own = num_bytes(*step.model.parameters()), num_bytes(*step.model.buffers())
    peak = _peak(step, device, resident=sum(own), before=before)
    return Memory(*own, gradients, optimizer, saved, peak)


def _forward_and_saved_bytes(step: TrainingStep) -> tuple[torch.Tensor, int]:
    known = {tensor.untyped_storage().data_ptr() for tensor in step.model.parameters()}
    known |= {tensor.untyped_storage().data_ptr() for tensor in step.model.buffers()}
    # Storages are held, so that no address is used twice while they are counted.
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = step.forward()
    return loss, sum(storage.nbytes() for storage in kept.values())


def warm_up_allocator(device: torch.device) -> None:
    """The workspaces that CUDA's libraries keep are allocated, so no model is charged for them."""
    if device.type == "cuda":
        linear = nn.Linear(64, 64, device=device)
        linear(torch.ones(64, 64, device=device)).sum().backward()


def _allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def _peak(step: Step, device: torch.device, *, resident: int, before: int) -> int | None:
    """The most that one more step allocates, with what the model holds all the time.

    Other models are on the device as well: ``before`` is theirs and the model's own ``resident``.
    """
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before + resident

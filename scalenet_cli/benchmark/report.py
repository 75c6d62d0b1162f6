"""What ``scalenet bench`` reports."""

from typing import Literal

from pydantic import Field

from scalenet_cli.families.base import InputUnit
from scalenet_cli.reports.base import Report
from scalenet_cli.reports.spread import Spread


class MemoryReport(Report):
    """Bytes of one variant; a tied tensor counts once."""

    parameter_bytes: int = Field(description="parameters as they are held while the pass runs")
    buffer_bytes: int = Field(description="tensors of the model that are no parameters")
    gradient_bytes: int = Field(description="gradients of trained parameters; 0 for inference")
    optimizer_bytes: int = Field(description="state of AdamW; 0 for inference")
    saved_activation_bytes: int = Field(
        description="distinct storages that the forward pass keeps for the backward pass; 0 for "
        "inference"
    )
    accounted_bytes: int = Field(description="the sum of the five above")
    peak_bytes: int | None = Field(
        description="the most that the device had allocated for this variant; null but on CUDA"
    )

    @property
    def total_bytes(self) -> int:
        """The peak where it is known, and what can be accounted for elsewhere."""
        return self.accounted_bytes if self.peak_bytes is None else self.peak_bytes


class VariantReport(Report):
    """One variant in one kind of pass."""

    name: Literal["base", "scaled", "floor", "untied"]
    stored: int = Field(description="unique parameters")
    trainable: int = Field(description="parameters that a training step trains")
    flops: int = Field(description="of this pass over one sample; training: forward and backward")
    seconds: Spread = Field(description="of one pass over a batch")
    samples_per_second: Spread = Field(description="batch size / seconds")
    memory: MemoryReport


class RatioReport(Report):
    """One variant divided by its reference."""

    variant: Literal["base", "scaled", "floor", "untied"]
    reference: Literal["base", "scaled", "floor", "untied"]
    time: Spread = Field(description="ratio of seconds, taken round by round")
    flops: float = Field(description="ratio of FLOPs: the arithmetic limit of `time`")
    memory: float = Field(description="ratio of peak bytes, or of accounted bytes without a peak")


class PassReport(Report):
    """All variants in one kind of pass."""

    variants: tuple[VariantReport, ...]
    ratios: tuple[RatioReport, ...] = Field(
        description="inference: to `base`; training: of `scaled`, to every other variant"
    )


class BenchReport(Report):
    """Time and memory of inference and of a training step, for variants of one model."""

    target: str
    plan: str | None = Field(description="the plan as given; null for a bundle's own")
    family: str
    architecture: str
    device: Literal["cpu", "cuda", "mps"]
    device_name: str = Field(description="of the GPU; elsewhere the kind of processor")
    threads: int = Field(description="threads of an operation on the CPU")
    torch_version: str
    precision: Literal["fp32", "bf16", "fp16"]
    compiled: bool
    channels_last: bool
    batch_size: int
    input_size: int = Field(description="image side in pixels, or sequence length in tokens")
    unit: InputUnit
    repeats: int = Field(description="measured rounds; each runs every variant once")
    warmup: int = Field(description="rounds before them that are not measured")
    seed: int
    inference: PassReport | None = Field(description="null with `--train-only`")
    training: PassReport | None = Field(description="null with `--inference-only`")
    notes: tuple[str, ...]

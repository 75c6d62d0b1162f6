"""What ``scalenet diagnose`` reports."""

from typing import Any

from pydantic import Field

from scalenet_cli.reports.base import Report


class BlockPlace(Report):
    """One executed block."""

    stage: int = Field(description="0-based")
    position: int = Field(description="place in the scaled stage")
    source: int = Field(description="pretrained block that is executed")
    ordinal: int = Field(description="0 is the pretrained occurrence")


class ScoreReport(Report):
    """How good the answers to all samples are."""

    loss: float | None = Field(
        description="mean cross entropy in nats; null where it overflows or is NaN"
    )
    top1: float = Field(
        description="per cent of the targets (images or tokens) with the best logit"
    )
    perplexity: float | None = Field(description="e to the power of `loss`; null for images")

    def value(self, metric: str) -> float:
        """The metric of that name; of a task with another one, its loss. NaN where it is null."""
        found = {"top1": self.top1, "perplexity": self.perplexity}.get(metric, self.loss)
        return float("nan") if found is None else found


class InstanceGradient(BlockPlace):
    """What one instance alone gives to the gradient of the tensors that it shares."""

    norm: float = Field(description="l2 norm")
    cosine: float | None = Field(
        description="between this part and the whole; null where either is zero"
    )


class BlockGradient(Report):
    """The gradient of one block's tied tensors."""

    stage: int = Field(description="0-based")
    source: int = Field(description="pretrained block")
    norm: float = Field(
        description="l2 norm of the gradient of the mean loss: of the sum over all instances"
    )
    instances: tuple[InstanceGradient, ...] = Field(description="its parts")


class HistogramReport(BlockPlace):
    """Values that one block puts out, over samples, tokens and channels."""

    depth: int = Field(description="place among all executed blocks, from 0")
    counts: tuple[int, ...] = Field(description="of equal bins over the clipped range")
    num_values: int = Field(description="the sum of `counts`")
    beyond: float = Field(description="share of the values that were clipped, from 0 to 1")
    mean: float = Field(description="of the values as they are")
    std: float = Field(description="of the values as they are")


class ModelReport(Report):
    """What was measured of one model."""

    target: str = Field(description="as it was given")
    name: str = Field(description="as plots call it: the end of `target`")
    architecture: str = Field(description="timm's name, or the config's `model_type`")
    score: ScoreReport = Field(description="of the whole model")
    blocks: tuple[BlockPlace, ...] = Field(description="in the order of execution")
    gradients: tuple[BlockGradient, ...] = Field(description="one per set of tied tensors")
    histograms: tuple[HistogramReport, ...] = Field(description="one per sampled depth")


class AdapterReport(BlockPlace):
    """How much one adapter adds to its tied Linear."""

    linear: str = Field(description="module path inside the block")
    ratio: float = Field(
        description="mean over samples of the l2 norm of the adapter's output / of the core's"
    )
    gate: float | None = Field(description="root mean square of the gate; null without one")


class AblationReport(BlockPlace):
    """The score on the same samples when something of one instance is taken away."""

    skipped: ScoreReport | None = Field(
        description="the block replaced by identity; null where `--skip` leaves it out"
    )
    without_adapters: ScoreReport | None = Field(
        description="its adapters removed; null where it has none, or with `--skip none`"
    )


class CkaReport(Report):
    """Similarity of block outputs: rows are the target's blocks, columns the other model's."""

    against: str = Field(description="the model of the columns; the target itself without another")
    num_rows: int = Field(description="features that were compared: samples, times sampled tokens")
    tokens: int | None = Field(description="sampled per sample; null where tokens are averaged")
    linear: tuple[tuple[float | None, ...], ...] = Field(
        description="linear CKA with the biased HSIC; null where a feature does not vary"
    )
    unbiased: tuple[tuple[float | None, ...], ...] = Field(
        description="the same with the unbiased HSIC; null also below 4 features"
    )


class DiagnoseReport(Report):
    """How the blocks of a model share the work, and how they compare with another model's."""

    tool: str = Field(description="`scalenet-cli` and the version that wrote it")
    data: str = Field(description="the folder, file or data set that was read")
    num_samples: int = Field(description="images or sequences that were read")
    num_targets: int = Field(description="images, or tokens that were predicted")
    metric: str = Field(description="what the task is judged by")
    clip: float = Field(description="histograms go from minus this to this")
    device: str = Field(description="kind of device; everything runs in float32")
    batch_size: int = Field(description="samples at a time")
    seed: int = Field(description="of the sampled tokens")
    preparation: dict[str, Any] = Field(
        description="of images timm's preprocessing, of text `max_length` and `template`"
    )
    model: ModelReport = Field(description="the target")
    against: ModelReport | None = Field(description="the other model; null without `--against`")
    adapters: tuple[AdapterReport, ...] = Field(description="one per adapted Linear of the target")
    ablations: tuple[AblationReport, ...] = Field(
        description="one per block of the target of which anything was taken away"
    )
    cka: CkaReport = Field(description="how alike the blocks of both are")
    files: tuple[str, ...] = Field(description="what is in the report's folder; empty without one")
    notes: tuple[str, ...] = Field(description="decisions that the user should hear of")

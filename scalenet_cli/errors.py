"""Every failure that a user can cause, as one tree.

ScalenetError
|-- UsageError          exit 2: options, targets, outputs
|   |-- OptionError
|   `-- OutputExists
|-- PlanError           exit 2: the plan, or the plan against a model
|   |-- PlanErrors      several of them at once
|   |-- PlanUnreadable, PlanSyntax, PlanSchema, UnknownRecipe
|   |-- ScopeOutOfRange, SourceOutOfRange, SourceMissing, CrossStageTie, FactorMismatch, PlanTooDeep
|   |-- PlanChangesNothing, TrainGroupMissing, DropPathUnsupported, StartUnsupported
|   `-- AdapterTooWide, TargetMatchesNothing
|-- CheckpointError     exit 3: foreign input
|   |-- CheckpointNotFound, CheckpointUnreadable, CheckpointUnsafe, CheckpointIncomplete
|   |-- UnknownArchitecture, AmbiguousArchitecture, ArchitectureMismatch, UnsupportedTensor
|   |-- SourceNotFinite
|   `-- MissingExtra, DownloadFailed
|-- SurgeryError        exit 3: a model that a family does not describe
|   |-- UnknownBlockTensor
|   `-- CannotFold, TieReplacedInPart
|-- BundleError         exit 3: our own folder
|   |-- NotABundle, BundleFormatUnknown, ManifestUnreadable, BundlePathUnsafe, BundleNotFinite
|   |-- BundleFileMissing, BundleDigestMismatch, BundleTieBroken, BundleExchanged
|   `-- SourceMismatch, OutputUnwritable, OutputInUse
|-- DataError           exit 3: images and labels
|   `-- DataNotFound, DataUnreadable, ImageUnreadable, ClassesDiffer, TargetOutOfRange, NoBatch
|-- TrainingError       exit 3: a run that cannot go on
|   |-- NotARun, RunStateDamaged, LossNotFinite, RankLost, WorkerLost
|   `-- RunExists, RunDiffers, DeviceUnavailable, LaunchUnclear, RanksDiffer   exit 2
|-- StoppedOnRequest    exit 5: a signal ended a run, whose state is saved
|-- SystemFailure       exit 3: the operating system refused something
`-- ThresholdMissed     exit 4: --max-params, --max-macs
"""

from typing import ClassVar, Final

YamlPath = tuple[str | int, ...]
_MAX_SHOWN: Final = 600
# On no package index yet, so from a clone. Once it is published, these two lines change.
_INSTALL_EXTRA: Final = "in the folder of your clone: pip install '.[{extra}]'"
UPGRADE_HINT: Final = "in the folder of your clone: git pull && pip install ."


def install_hint(extra: str) -> str:
    """How to get an optional dependency of ``pyproject.toml``."""
    return _INSTALL_EXTRA.format(extra=extra)


def shown(text: str, limit: int = _MAX_SHOWN) -> str:
    """One printable line: names and values in messages come from files of strangers."""
    if len(text) > limit:
        text = f"{text[: limit // 2]} ... {text[-limit // 2 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class ScalenetError(Exception):
    """A failure that the user can act on: a fact, a place and a next step.

    ``field`` is the YAML path of the plan entry at fault, so that whoever holds the plan's text can
    turn it into file and line.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        fact: str,
        *,
        where: str | None = None,
        hint: str | None = None,
        field: YamlPath | None = None,
    ) -> None:
        super().__init__(fact)
        self.fact = fact
        self.where = where
        self.hint = hint
        self.field = field

    def __str__(self) -> str:
        lines = [f"error[{self.code}]: {shown(self.fact)}"]
        if self.where:
            lines.append(f"  where: {shown(self.where)}")
        if self.hint:
            lines.append(f"  hint:  {shown(self.hint)}")
        return "\n".join(lines)


class UsageError(ScalenetError):
    """The command line cannot be carried out as it stands."""

    code = "usage"
    exit_code = 2


class OptionError(UsageError):
    """An option's value cannot be used."""

    code = "option"


class OutputExists(UsageError):
    """The output is there already and may not be replaced."""

    code = "output-exists"


class PlanError(ScalenetError):
    """A plan is wrong, or does not fit the model."""

    code = "plan"
    exit_code = 2


class PlanErrors(PlanError):
    """All mistakes of one plan."""

    code = "plan-errors"

    def __init__(self, errors: tuple[PlanError, ...]) -> None:
        super().__init__(f"{len(errors)} mistakes")
        self.errors = errors

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)


class PlanUnreadable(PlanError):
    """The plan's file cannot be read, or is too large."""

    code = "plan-unreadable"


class PlanSyntax(PlanError):
    """The plan is not YAML that we accept."""

    code = "plan-syntax"


class PlanSchema(PlanError):
    """A key or value of the plan is not in the schema."""

    code = "plan-schema"


class UnknownRecipe(PlanError):
    """No plan file and no shipped recipe has this name."""

    code = "unknown-recipe"


class ScopeOutOfRange(PlanError):
    """The scope names a stage or block that the model does not have."""

    code = "scope-out-of-range"


class SourceOutOfRange(PlanError):
    """The mapping names a source block that the stage does not have."""

    code = "source-out-of-range"


class SourceMissing(PlanError):
    """The mapping leaves a pretrained block out, or repeats one outside the scope."""

    code = "source-missing"


class CrossStageTie(PlanError):
    """One list of sources would tie blocks of different stages."""

    code = "cross-stage-tie"


class FactorMismatch(PlanError):
    """The target depth is no whole number, or shrinks the model."""

    code = "factor-mismatch"


class PlanTooDeep(PlanError):
    """The plan asks for more blocks than any model can use."""

    code = "plan-too-deep"


class PlanChangesNothing(PlanError):
    """The scaled model would be the source model."""

    code = "plan-changes-nothing"


class TrainGroupMissing(PlanError):
    """The train set names a group that the scaled model does not have."""

    code = "train-group-missing"


class DropPathUnsupported(PlanError):
    """The family has no stochastic depth."""

    code = "drop-path-unsupported"


class StartUnsupported(PlanError):
    """The start cannot do what it promises on this family."""

    code = "start-unsupported"


class AdapterTooWide(PlanError):
    """The adapter's dim is no bottleneck of the Linear it belongs to."""

    code = "adapter-too-wide"


class TargetMatchesNothing(PlanError):
    """An adapter target matches no Linear of a block."""

    code = "target-matches-nothing"


class CheckpointError(ScalenetError):
    """A checkpoint cannot be used."""

    code = "checkpoint"
    exit_code = 3


class CheckpointNotFound(CheckpointError):
    """Nothing is at that path."""

    code = "checkpoint-not-found"


class CheckpointUnreadable(CheckpointError):
    """The file is not a checkpoint, or is damaged."""

    code = "checkpoint-unreadable"


class CheckpointUnsafe(CheckpointError):
    """The file would run code when it is read."""

    code = "checkpoint-unsafe"


class CheckpointIncomplete(CheckpointError):
    """A file or tensor of the checkpoint is missing."""

    code = "checkpoint-incomplete"


class UnknownArchitecture(CheckpointError):
    """No family knows this architecture."""

    code = "unknown-architecture"


class AmbiguousArchitecture(CheckpointError):
    """The file holds several models, or its shapes leave open what a model computes."""

    code = "ambiguous-architecture"


class ArchitectureMismatch(CheckpointError):
    """The architecture and the tensors disagree."""

    code = "architecture-mismatch"


class UnsupportedTensor(CheckpointError):
    """A tensor has a type that cannot be scaled, such as quantised weights."""

    code = "unsupported-tensor"


class SourceNotFinite(CheckpointError):
    """``--strict`` was asked for, and the checkpoint holds NaN or infinite values."""

    code = "source-not-finite"


class MissingExtra(CheckpointError):
    """An optional package is needed for this family."""

    code = "missing-extra"


class DownloadFailed(CheckpointError):
    """A hub reference could not be fetched."""

    code = "download-failed"


class SurgeryError(ScalenetError):
    """A model is not built as its family states."""

    code = "surgery"
    exit_code = 3


class UnknownBlockTensor(SurgeryError):
    """A block has a tensor of which the family does not say whether it is tied."""

    code = "unknown-block-tensor"


class CannotFold(SurgeryError):
    """An adapter cannot be absorbed into the weight beside it."""

    code = "cannot-fold"


class TieReplacedInPart(SurgeryError):
    """Another tool replaced a shared module in some instances only."""

    code = "tie-replaced-in-part"


class BundleError(ScalenetError):
    """A bundle cannot be read or written."""

    code = "bundle"
    exit_code = 3


class NotABundle(BundleError):
    """The folder has no manifest."""

    code = "not-a-bundle"


class BundleFormatUnknown(BundleError):
    """The manifest is of a format that this version does not know."""

    code = "bundle-format-unknown"


class ManifestUnreadable(BundleError):
    """The manifest is damaged or contradicts itself."""

    code = "manifest-unreadable"


class BundlePathUnsafe(BundleError):
    """The manifest points outside its folder."""

    code = "bundle-path-unsafe"


class BundleFileMissing(BundleError):
    """A file that the manifest lists is missing or has another size."""

    code = "bundle-file-missing"


class BundleDigestMismatch(BundleError):
    """A tensor or file is not what was written."""

    code = "bundle-digest-mismatch"


class BundleTieBroken(BundleError):
    """A tie of the manifest does not hold in the model."""

    code = "bundle-tie-broken"


class BundleNotFinite(BundleError):
    """``--strict`` was asked for, and the bundle holds NaN or infinite values."""

    code = "bundle-not-finite"


class BundleExchanged(BundleError):
    """Another process replaced the bundle while it was read."""

    code = "bundle-exchanged"


class SourceMismatch(BundleError):
    """The bundle's base is not the checkpoint that was given."""

    code = "source-mismatch"


class OutputUnwritable(BundleError):
    """The output cannot be written: no permission, no space, no folder."""

    code = "output-unwritable"


class OutputInUse(BundleError):
    """Another command is writing to the output."""

    code = "output-in-use"


class DataError(ScalenetError):
    """Images or labels cannot be used."""

    code = "data"
    exit_code = 3


class DataNotFound(DataError):
    """There is no such folder, file, split or data set."""

    code = "data-not-found"


class DataUnreadable(DataError):
    """The data hold no sample that can be read, or need a package that is missing."""

    code = "data-unreadable"


class ImageUnreadable(DataError):
    """One image is damaged, or too large to decode."""

    code = "image-unreadable"


class ClassesDiffer(DataError):
    """Two splits, or the data and the model, do not have the same classes."""

    code = "classes-differ"


class TargetOutOfRange(DataError):
    """A sample's target is no class of the model."""

    code = "target-out-of-range"


class NoBatch(DataError):
    """The data are smaller than one batch."""

    code = "no-batch"


class TrainingError(ScalenetError):
    """A run cannot start or go on."""

    code = "training"
    exit_code = 3


class NotARun(TrainingError):
    """The folder holds no run to resume."""

    code = "not-a-run"


class RunStateDamaged(TrainingError):
    """The training state of a run is not what was written."""

    code = "run-state-damaged"


class LossNotFinite(TrainingError):
    """Loss or gradient became NaN or infinite; ``step`` says when, in a run."""

    code = "loss-not-finite"
    step: int | None = None

    @classmethod
    def at(cls, step: int, fact: str, *, hint: str) -> "LossNotFinite":
        """The error of a run after so many steps."""
        error = cls(fact, hint=hint)
        error.step = step
        return error


class RankLost(TrainingError):
    """Another process of the same run is gone."""

    code = "rank-lost"


class WorkerLost(TrainingError):
    """A process that loads data was killed, or could not hand over what it loaded."""

    code = "worker-lost"


class RunExists(TrainingError):
    """The output holds a run already."""

    code = "run-exists"
    exit_code = 2


class RunDiffers(TrainingError):
    """A run cannot be resumed with another recipe, bundle or other data."""

    code = "run-differs"
    exit_code = 2


class DeviceUnavailable(TrainingError):
    """The device that was asked for is not there."""

    code = "device-unavailable"
    exit_code = 2


class LaunchUnclear(TrainingError):
    """Several processes were started, and the environment does not tell them apart."""

    code = "launch-unclear"
    exit_code = 2


class RanksDiffer(TrainingError):
    """The processes of one run do not all have the same bundle, data, recipe or version."""

    code = "ranks-differ"
    exit_code = 2


class StoppedOnRequest(ScalenetError):
    """A signal asked the run to stop; its state was saved before."""

    code = "stopped"
    exit_code = 5


class SystemFailure(ScalenetError):
    """The operating system refused to read or write a file, or to start a process."""

    code = "system"
    exit_code = 3


class ThresholdMissed(ScalenetError):
    """A threshold on the command line was missed."""

    code = "threshold-missed"
    exit_code = 4

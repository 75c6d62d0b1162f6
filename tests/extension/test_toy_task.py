"""A task in one module and one table entry goes through every command.

Image regression: a ViT with one output says the mean brightness of an image. Data are two files of
tensors. Nothing else in the package knows of it. (Which families have the task is a family's to
say: here timm's ViT says so, in its place in FAMILIES.)
"""

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple

import pytest
import torch
import typer
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from typer.testing import CliRunner

import scalenet_cli
from scalenet_cli import cli
from scalenet_cli.bundle.trained import Start
from scalenet_cli.cli.app import ReportingGroup
from scalenet_cli.cli.task_options import with_task_options
from scalenet_cli.errors import OptionError
from scalenet_cli.families import FAMILIES
from scalenet_cli.families.base import Family
from scalenet_cli.families.vit import VIT
from scalenet_cli.measure.diagnosed_model import DiagnosedModel
from scalenet_cli.measure.model_outputs import Samples, Score
from scalenet_cli.measure.throughput import Work as BenchWork
from scalenet_cli.models.load import load_target, load_weights
from scalenet_cli.models.source_options import SourceOptions
from scalenet_cli.models.target import use_target
from scalenet_cli.models.trained_model import TrainedModel
from scalenet_cli.plan.layout import Layout
from scalenet_cli.plan.load import plan_from_dict
from scalenet_cli.plan.training import TrainingRecipe
from scalenet_cli.reports.base import Report
from scalenet_cli.reports.metrics import Metric
from scalenet_cli.tasks import TASKS
from scalenet_cli.tasks.options import Command, GivenOptions, Option, TaskOptions
from scalenet_cli.tasks.requests import (
    BenchRequest,
    DataRequest,
    Diagnosis,
    EvalRequest,
    EvalResult,
    FinetuneOptions,
    Parts,
    Progress,
    Request,
)
from scalenet_cli.training.data import DataOptions
from scalenet_cli.training.devices import Devices
from scalenet_cli.training.objective import Loss
from scalenet_cli.training.order import epoch_order
from scalenet_cli.training.run_record import RunRecord, SplitRecord
from scalenet_cli.training.run_training import Work
from scalenet_cli.training.seeding import seed_everything
from scalenet_cli.training.trained_groups import train_set
from scalenet_cli.training.training_task import Run, Scores, Skipped
from scalenet_cli.version import TOOL
from tests.cli.helpers import Run as CommandLine
from tests.training.runs import InterruptAt, Interrupted, write_bundle

NAME: Final = "image-regression"
SIZE: Final = 16
ARGUMENTS: Final = {
    "img_size": SIZE, "patch_size": 4, "embed_dim": 32, "depth": 3, "num_heads": 2,
    "num_classes": 1,
}  # fmt: skip
SOURCE: Final = SourceOptions(model_kwargs=ARGUMENTS, random_weights=True)
ARCHITECTURE: Final = "timm:vit_tiny_patch16_224"
PLAN: Final = {"version": 1, "mapping": "interpolate", "factor": 2, "adapter": {"dim": 4}}


class Recipe(TrainingRecipe):
    default_warmup_share: ClassVar[float] = 0.1
    task: Literal["image-regression"] = NAME


class Batch(NamedTuple):
    images: torch.Tensor
    targets: torch.Tensor


class Pixels(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """One split: ``images`` (N, 3, 16, 16) and ``targets`` (N,) of a file."""

    def __init__(self, data: DataOptions, split: str, flags: "Flags | None" = None) -> None:
        held = torch.load(Path(data.data) / f"{split}.pt", weights_only=True)
        self.images = held["images"]
        self.targets = held["targets"] + (0 if flags is None else flags.offset)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, at: Any) -> tuple[torch.Tensor, torch.Tensor]:
        index = at[1] if isinstance(at, tuple) else at
        return self.images[index], self.targets[index]

    @property
    def record(self) -> SplitRecord:
        return SplitRecord(num_samples=len(self), digest=f"{float(self.targets.sum()):.6f}")


class Regression:
    """The engine's task; see training.training_task."""

    metric: ClassVar[str] = "rmse"
    larger_is_better: ClassVar[bool] = False
    even: ClassVar[bool] = True
    default_workers: ClassVar[int] = 0
    same_options: ClassVar[tuple[str, ...]] = ()
    bundle_name: ClassVar[str] = "bundle"

    def __init__(self, recipe: Recipe, train: Pixels, val: Pixels, place: str) -> None:
        self._recipe, self.training, self.validation = recipe, train, val
        self.place, self.sizes = place, (len(train), len(val))

    def collate(self, samples: Sequence[Any]) -> Batch:
        if not samples:
            return Batch(torch.zeros(0, 3, SIZE, SIZE), torch.zeros(0))
        images, targets = zip(*samples, strict=True)
        return Batch(torch.stack(images), torch.stack(targets))

    def order(self, epoch: int) -> torch.Tensor:
        return epoch_order(self.sizes[0], self._recipe.seed, epoch)

    def check(self, micro_batch: int) -> None: ...
    def prepare(self, model: nn.Module, layout: Layout, family: Family) -> None: ...

    def accept(self, batch: Batch, size: int) -> tuple[Skipped, ...]:
        return ()

    def num_targets(self, batch: Batch) -> int:
        return len(batch.targets)

    def loss(
        self, run: Run, batch: Batch, device: torch.device, *, epoch: int, purpose: str
    ) -> Any:
        seed_everything(self._recipe.seed, purpose)
        return Loss(F.mse_loss(run(batch.images.to(device))[:, 0], batch.targets.to(device)))

    def remarks(self, before: float, trained: Collection[Any]) -> tuple[str, ...]:
        return ()

    def evaluate(self, model: nn.Module, batches: "DataLoader[Any]", devices: Devices) -> Scores:
        sums = torch.zeros(2, dtype=torch.float64)
        with torch.no_grad():
            for batch in batches:
                error = model(batch.images)[:, 0].double() - batch.targets
                sums += torch.stack([error.square().sum(), torch.tensor(float(len(error)))])
        total, count = devices.sum(sums).tolist()
        rmse = (total / count) ** 0.5
        return Scores(total / count, {"rmse": rmse}, f"rmse {rmse:.4f}")


@dataclass(frozen=True)
class OpenedPixels:
    """Data for a study."""

    train: Pixels
    val: Pixels
    place: str
    new_head: bool = False
    notes: tuple[str, ...] = ()

    def training_task(self, recipe: Recipe) -> Regression:
        return Regression(recipe, self.train, self.val, self.place)

    def records(self, recipe: Recipe) -> tuple[SplitRecord, SplitRecord]:
        return self.train.record, self.val.record


class RegressionReport(Report):
    rmse: float
    num_images: int


class ImageRegression:
    """The entry of TASKS."""

    name = NAME
    metrics = (Metric(name="rmse", label="error", larger_is_better=False),)
    recipe = Recipe
    sample_unit = "images"
    threshold_examples = "for example rmse=0.1 (at most)"

    def refuse_data(self, data: str | None, dataset: str, target: str) -> None:
        assert data is not None

    def open_data(self, request: DataRequest) -> OpenedPixels:
        data = request.data
        return OpenedPixels(Pixels(data, "train"), Pixels(data, "val"), data.data)

    def prepare_run(self, request: Request, recipe: Recipe) -> Parts:
        train, val = (Pixels(request.data, split, request.flags) for split in ("train", "val"))

        def load() -> TrainedModel:
            loaded = load_weights(request.described, request.start)
            return TrainedModel(
                model=loaded.model, family=loaded.family, layout=loaded.layout,
                groups=loaded.groups, train=train_set(loaded.groups, loaded.train, recipe),
                base_keys=loaded.base_keys, bundle=request.start, manifest=request.start.manifest,
            )  # fmt: skip

        return Parts(
            start=Start(request.source, request.source.manifest),
            task=Regression(recipe, train, val, request.data.data),
            record=RunRecord(
                tool=TOOL, bundle=request.source.manifest.digest, train=train.record,
                val=val.record, task=NAME,
            ),
            subject=load,
        )  # fmt: skip

    def evaluate(self, request: EvalRequest, progress: Progress | None) -> EvalResult:
        model = use_target(request.target, load_target, request.options).model
        val = Pixels(DataOptions(request.data[0]), "val", request.flags)
        with torch.no_grad():
            rmse = float((model(val.images)[:, 0] - val.targets).square().mean().sqrt())
        report = RegressionReport(rmse=rmse, num_images=len(val))
        return EvalResult(
            report=report, lines=(f"rmse {rmse:.4f}",), notes=(), found=(("", {"rmse": rmse}),)
        )

    def bench_batch_size(self, device: str) -> int:
        return 2

    def make_bench_batch(self, request: BenchRequest) -> BenchWork:
        images = torch.randn(request.batch_size, 3, request.size, request.size)
        return BenchWork(
            inputs={"x": images.to(request.device)},
            labels=torch.randn(request.batch_size, device=request.device),
            loss=lambda outputs, targets: F.mse_loss(outputs[:, 0], targets),
            device=request.device,
        )

    def open_samples(self, work: Diagnosis, target: str, *, held: int = 0) -> DiagnosedModel:
        loaded = use_target(target, load_target, work.options_of(target))
        val = Pixels(DataOptions(work.data), "val", work.flags)
        images, targets = val.images[: work.how.limit], val.targets[: work.how.limit]
        batch = Samples({"x": images}, targets, None, 0, score_errors)
        return DiagnosedModel(
            name=target, model=loaded.model, family=loaded.family,
            architecture=loaded.architecture.name, layout=loaded.layout, batches=(batch,),
            place=work.data, preparation={}, notes=(), held_bytes=0,
        )  # fmt: skip


def score_errors(outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, Score]:
    loss = F.mse_loss(outputs[:, 0], targets, reduction="sum")
    return loss, Score(float(loss.detach()), len(targets), 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """Of every command: brighter targets."""

    offset: Annotated[int, Option(metavar="N", minimum=0, help="Added to every target.")] = 0


REGRESSION: Final = ImageRegression()
OPTIONS: Final = TaskOptions(
    models="regressors",
    a_model="a regressor",
    records={"finetune": Flags, "eval": Flags, "diagnose": Flags},
)
REGRESSING_VIT: Final = replace(VIT, task=NAME)


@pytest.fixture(autouse=True)
def entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(dict_of(TASKS), NAME, f"{__name__}:REGRESSION")
    monkeypatch.setitem(dict_of(FAMILIES), "vit", f"{__name__}:REGRESSING_VIT")


def dict_of(table: Mapping[str, str]) -> dict[str, str]:
    assert isinstance(table, dict)
    return table


@pytest.fixture
def data(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    folder = tmp_path / "data"
    folder.mkdir()
    for split, count in (("train", 16), ("val", 8)):
        targets = torch.rand(count, generator=generator)
        noise = torch.randn(count, 3, SIZE, SIZE, generator=generator)
        images = targets[:, None, None, None] + 0.1 * noise
        torch.save({"images": images, "targets": targets}, folder / f"{split}.pt")
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    scalenet_cli.expand_checkpoint(
        ARCHITECTURE, plan_from_dict(PLAN), tmp_path / "bundle", options=SOURCE
    )
    return tmp_path / "bundle"


@pytest.fixture
def run() -> CommandLine:
    """The command line, with the options of the toy."""
    app = typer.Typer(cls=ReportingGroup)
    app.command("finetune")(with_task_options("finetune", vars(cli.finetune)["_finetune"]))
    app.command("diagnose")(with_task_options("diagnose", vars(cli.diagnose)["_diagnose"]))
    app.command("eval")(with_task_options("eval", vars(cli.evaluate)["_evaluate"]))
    return lambda *words: CliRunner().invoke(app, [*map(str, words)])


def finetune(bundle: Path, data: Path, run: Path, **more: Any) -> Any:
    options = FinetuneOptions(
        settings={"epochs": 2, "batch_size": 8, "lr": 1e-2, "log_steps": 1, "save_steps": 1},
        device="cpu", work=Work(workers=0), **{k: v for k, v in more.items() if k != "reporter"},
    )  # fmt: skip
    return scalenet_cli.finetune(bundle, DataOptions(str(data)), run, options, more.get("reporter"))


def test_finetune_and_resume(bundle: Path, data: Path, tmp_path: Path) -> None:
    whole = finetune(bundle, data, tmp_path / "whole")
    assert whole.metric == "rmse"
    assert whole.best < whole.before
    assert whole.new_blocks.verdict in ("useful", "nothing", "harmful")
    with pytest.raises(Interrupted):
        finetune(bundle, data, tmp_path / "run", reporter=InterruptAt(3))
    again = finetune(bundle, data, tmp_path / "run", resume=True)
    assert again.last == whole.last
    assert json.loads((tmp_path / "run" / "run.json").read_text())["task"] == NAME


def test_eval_and_its_threshold(run: CommandLine, bundle: Path, data: Path) -> None:
    found = json.loads(run("eval", bundle, "--data", data, "--json").stdout)
    assert found["num_images"] == 8
    failed = run("eval", bundle, "--data", data, "--fail-under", "rmse=0.000001")
    assert failed.exit_code == 4
    assert "rmse is" in failed.stderr
    refused = run("eval", bundle, "--data", data, "--crop-pct", "1")
    assert "--crop-pct is for image classifiers, but this is a regressor" in refused.stderr


@pytest.mark.parametrize("command", ["finetune", "diagnose", "eval"])
def test_an_option_of_the_toy_reaches_it_and_no_other_task(
    run: CommandLine, command: Command, bundle: Path, data: Path, tmp_path: Path
) -> None:
    more: list[object] = ["--data", data, "--json", "--device", "cpu"]
    if command != "eval":
        more += ["-o", tmp_path / "out"]
    if command == "finetune":
        more += ["--epochs", 1, "--batch-size", 8, "--workers", 0, "--warmup-epochs", 0]
    swin = write_bundle(tmp_path / "swin", "swin")
    refused = run(command, swin, *more, "--offset", 1)
    assert refused.exit_code == 2
    assert "--offset is for regressors, but this is an image classifier" in refused.stderr
    plain = run(command, bundle, *more)
    assert plain.exit_code == 0, plain.stderr
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    moved = run(command, bundle, *more, "--offset", 100)
    assert moved.exit_code == 0, moved.stderr
    assert rmse_of(json.loads(moved.stdout)) > 90 > 10 > rmse_of(json.loads(plain.stdout))


def rmse_of(report: Mapping[str, Any]) -> float:
    """As eval, finetune and diagnose give it."""
    if "rmse" in report:
        return report["rmse"]
    return report["before"] if "before" in report else report["model"]["score"]["loss"] ** 0.5


def test_options_of_the_task_in_python(bundle: Path, data: Path, tmp_path: Path) -> None:
    moved = finetune(bundle, data, tmp_path / "run", task_options={"offset": 100})
    assert moved.before > 90
    with pytest.raises(OptionError, match="regressors have no option shift"):
        finetune(bundle, data, tmp_path / "other", task_options={"shift": 100})
    with pytest.raises(OptionError, match="--num-classes is for image classifiers"):
        finetune(bundle, data, tmp_path / "other", task_options={"num_classes": 5})
    swin = write_bundle(tmp_path / "swin", "swin")
    with pytest.raises(OptionError, match="num_classes has a field of its own"):
        finetune(swin, data, tmp_path / "other", task_options={"num_classes": 5})


def test_two_tasks_may_share_an_option_only_if_it_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def declared(*_: object, given: GivenOptions) -> None: ...

    with_task_options("eval", declared)
    monkeypatch.setitem(OPTIONS.records, "eval", OtherWorkers)
    with pytest.raises(AssertionError, match="declare --workers differently"):
        with_task_options("eval", declared)


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherWorkers:
    """An option of image classification, with another default."""

    workers: Annotated[int, Option(help="Processes.")] = 3


def test_diagnose(bundle: Path, data: Path, tmp_path: Path) -> None:
    report = scalenet_cli.diagnose(bundle, data, tmp_path / "report")
    assert report.metric == "rmse"
    assert report.num_samples == 8
    assert len(report.model.blocks) == 6
    assert (tmp_path / "report" / "README.md").is_file()


def test_bench(bundle: Path) -> None:
    how = scalenet_cli.BenchOptions(repeats=1, warmup=0, device="cpu")
    report = scalenet_cli.bench(str(bundle), how=how)
    assert report.training is not None
    assert {row.name for row in report.training.variants} >= {"base", "scaled"}


def test_compare(data: Path, tmp_path: Path) -> None:
    study = {
        "version": 1, "source": ARCHITECTURE, "model_kwargs": ARGUMENTS, "random_weights": True,
        "data": {"path": str(data)}, "seeds": [0],
        "recipe": {"epochs": 1, "batch_size": 8},
        "arms": [{"name": "x2", "plan": PLAN}, {"name": "base", "base": True}],
    }  # fmt: skip
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    options = scalenet_cli.CompareOptions(device="cpu", work=Work(workers=0))
    report = scalenet_cli.compare(tmp_path / "study.yaml", tmp_path / "out", options)
    assert report.metric == "rmse"
    assert report.results is not None
    assert [arm.last is not None for arm in report.results.arms] == [True, True]
    assert "error: mean +- sample" in (tmp_path / "out" / "results.md").read_text()

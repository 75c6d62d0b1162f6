"""A toy family that is nothing but the object below and one line in the table."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, final

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from scalenet_cli import (
    BenchOptions,
    CompareOptions,
    EvalOptions,
    Work,
    bench,
    compare,
    count_params,
    diagnose,
    evaluate,
    inspect,
    load,
    verify,
)
from scalenet_cli.commands.expand import expand_checkpoint
from scalenet_cli.errors import UnknownArchitecture
from scalenet_cli.families import FAMILIES
from scalenet_cli.families.architecture import Architecture
from scalenet_cli.families.base import (
    Anatomy,
    OuterGroup,
    RandomInit,
    SourceRequest,
    StageRef,
    group_by_pattern,
    require_class,
)
from scalenet_cli.families.sources.checkpoint import Checkpoint
from scalenet_cli.families.sources.folder import read_weights
from scalenet_cli.families.sources.source import Source
from scalenet_cli.plan.layout import Layout
from scalenet_cli.surgery.ties import ties
from tests.training.runs import PLAIN, InterruptAt, Interrupted, train, write_data

WIDTH, PIXELS = 8, 4
PLAN = "version: 1\nmapping: stack\nfactor: 2\nadapter: {dim: 2, targets: all-linear}\n"


class ToyBlock(nn.Module):
    """Mixes channels twice, each behind a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mix = nn.ModuleDict({"into": nn.Linear(WIDTH, WIDTH), "out": nn.Linear(WIDTH, WIDTH)})
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 16), nn.GELU(), nn.Linear(16, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.mix["out"](self.mix["into"](self.before(x)).tanh())
        return x + self.mlp(self.after(x))


class ToyModel(nn.Module):
    """Pixels as tokens, blocks, a mean and a classifier."""

    def __init__(self, depth: int, num_classes: int) -> None:
        super().__init__()
        self.embed = nn.Linear(3, WIDTH)
        self.trunk = nn.ModuleList(ToyBlock() for _ in range(depth))
        self.classifier = nn.Linear(WIDTH, num_classes)
        self.num_classes = num_classes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.embed(x.flatten(2).transpose(1, 2))
        for block in self.trunk:
            y = block(y)
        return self.classifier(y.mean(dim=1))


@final
class ToyFamily:
    """See Family, for every member."""

    name = "toy"
    task = "image-classification"
    input_unit: Final = "pixels"
    has_classifier = True
    takes_source_options = False

    def require(self, model: object) -> None:
        require_class(model, ToyModel, self.name)

    def build(self, architecture: Architecture) -> nn.Module:
        with torch.device("meta"):
            return ToyModel(**architecture.arguments).eval()

    def reads_config(self, config: Mapping[str, Any]) -> bool:
        return "toy" in config

    def open_folder(
        self, folder: Path, config: Mapping[str, Any], request: SourceRequest
    ) -> Source:
        return self._source(read_weights(folder), config["toy"])

    def reads_tensors(self, keys: Collection[str]) -> bool:
        return "trunk.0.mix.into.weight" in keys

    def open_tensors(self, checkpoint: Checkpoint, request: SourceRequest) -> Source:
        keys = checkpoint.tensors
        depth = len({key.split(".")[1] for key in keys if key.startswith("trunk.")})
        classes = keys["classifier.weight"].spec.shape[0]
        return self._source(checkpoint, {"depth": depth, "num_classes": classes})

    def _source(self, read: Checkpoint, arguments: Mapping[str, Any]) -> Source:
        architecture = Architecture(self.name, "toy", arguments)
        return Source(architecture, read.tensors, kind=read.kind, verbatim=read.files)

    def stages(self, model: Any) -> tuple[StageRef, ...]:
        return (StageRef("trunk", len(model.trunk), WIDTH),)

    def anatomy(self, block: nn.Module) -> Anatomy:
        return Anatomy(
            attention=("mix.into", "mix.out"),
            mlp=("mlp.0", "mlp.2"),
            closing=("mix.out", "mlp.2"),
            norms=("before", "after"),
        )

    def prepare(self, block: nn.Module) -> None:
        pass

    def group(self, key: str) -> OuterGroup | None:
        return group_by_pattern(key, (("embed.*", "embeddings"), ("classifier.*", "head")))

    def shared_objects(self, model: nn.Module) -> Sequence[object]:
        return ()

    def drop_path(self, rate: float) -> nn.Module:
        raise NotImplementedError

    def default_drop_path(self, model: nn.Module) -> float:
        return 0.0

    def random_init(self, model: nn.Module) -> RandomInit:
        return RandomInit(std=0.02, norm=1.0)

    def repair(self, model: nn.Module, layout: Layout) -> None:
        pass

    def replace_head(self, model: Any, num_classes: int) -> None:
        model.classifier = nn.Linear(WIDTH, num_classes, device="meta")
        model.num_classes = num_classes

    def checkpoint_gradients(self, model: nn.Module) -> None:
        raise NotImplementedError

    def finish(self, model: nn.Module, folder: Path, files: Collection[str]) -> None:
        pass

    def save_with(self, model: nn.Module, save: Callable[..., None]) -> None:
        pass

    def image_preparation(self, model: nn.Module) -> Mapping[str, Any]:
        return {"input_size": (3, PIXELS, PIXELS), "fixed_input_size": False}

    def default_input_size(self, model: nn.Module) -> int:
        return PIXELS

    def example_inputs(self, model: nn.Module, size: int, device: str) -> dict[str, Any]:
        return {"x": torch.zeros(1, 3, size, size, device=device)}


TOY: Final = ToyFamily()


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "toy", f"{__name__}:TOY")


@pytest.fixture
def toy() -> ToyModel:
    torch.manual_seed(0)
    return ToyModel(depth=2, num_classes=5).eval()


def write_folder(model: ToyModel, folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"toy": {"depth": 2, "num_classes": 5}}))
    save_file(dict(model.state_dict()), folder / "model.safetensors")
    return folder


def write_file(model: ToyModel, folder: Path) -> Path:
    folder.mkdir()
    torch.save(model.state_dict(), folder / "toy.pth")
    return folder / "toy.pth"


@pytest.mark.parametrize("write", [write_folder, write_file])
def test_a_toy_goes_through_expand_inspect_count_verify_and_load(
    toy: ToyModel, write: Callable[[ToyModel, Path], Path], tmp_path: Path
) -> None:
    source, plan, out = write(toy, tmp_path / "source"), tmp_path / "plan.yaml", tmp_path / "out"
    plan.write_text(PLAN)
    expand_checkpoint(source, plan, out)
    assert verify(out, source=str(source)).compared_tensors == len([*toy.parameters()])

    found = inspect(str(out))
    assert (found.family, found.stages[0].sources) == ("toy", (0, 1, 0, 1))
    assert found.linears == ("mix.into", "mix.out", "mlp.0", "mlp.2")
    model = load(out)
    assert count_params(str(out)).stored == sum(p.numel() for p in model.parameters())
    assert {keys[-1] for keys in ties(model).values()} >= {"trunk.2.mix.into.core.weight"}
    x = torch.randn(2, 3, PIXELS, PIXELS)
    with torch.no_grad():
        assert torch.equal(model(x), toy(x))


def test_a_config_that_is_not_the_toys_is_anothers(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "another"}))
    with pytest.raises(UnknownArchitecture, match="another"):
        inspect(str(tmp_path))


def test_a_toy_is_benched(toy: ToyModel, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN)
    source = write_folder(toy, tmp_path / "source")
    expand_checkpoint(source, tmp_path / "plan.yaml", tmp_path / "out")
    how = BenchOptions(repeats=1, warmup=0, batch_size=2, device="cpu")
    report = bench(str(tmp_path / "out"), how=how)
    assert report.training is not None
    assert {row.name for row in report.training.variants} == {"base", "scaled", "floor", "untied"}


def test_a_toy_is_trained_resumed_evaluated_diagnosed_and_compared(
    toy: ToyModel, tmp_path: Path
) -> None:
    data = write_data(tmp_path / "data", size=PIXELS, train=16, val=10)
    (tmp_path / "plan.yaml").write_text(PLAN)
    source, bundle = write_folder(toy, tmp_path / "source"), tmp_path / "out"
    expand_checkpoint(source, tmp_path / "plan.yaml", bundle)
    recipe = {**PLAIN, "drop_path": None, "epochs": 2, "save_steps": 1}
    whole = train(bundle, data, tmp_path / "whole", recipe)
    with pytest.raises(Interrupted):
        train(bundle, data, tmp_path / "run", recipe, reporter=InterruptAt(3))
    assert train(bundle, data, tmp_path / "run", recipe, resume=True).last == whole.last

    how = EvalOptions(workers=0, device="cpu")
    assert evaluate(tmp_path / "run" / "last", data, how=how).top1 == whole.last["top1"]
    assert evaluate(source, data, how=how).top1 == evaluate(bundle, data, how=how).top1
    report = diagnose(bundle, data, against=source)
    assert [len(report.model.blocks), len(report.against.blocks)] == [4, 2]

    study = {
        "version": 1, "source": str(source), "data": {"path": str(data)}, "seeds": [0],
        "recipe": {**recipe, "epochs": 1},
        "arms": [{"name": "x2", "plan": yaml.safe_load(PLAN)}, {"name": "base", "base": True}],
    }  # fmt: skip
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    options = CompareOptions(device="cpu", work=Work(workers=0))
    found = compare(tmp_path / "study.yaml", tmp_path / "study", options)
    assert found.results is not None
    assert all(arm.last is not None for arm in found.results.arms)

"""What new blocks are worth after a training, and learning rates of their own for their tensors."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import nn
from torch.nn import functional as F
from typer.testing import Result

from scalenet_cli import load
from scalenet_cli.bundle.read import open_bundle
from scalenet_cli.errors import OptionError, PlanErrors
from scalenet_cli.measure.new_blocks import NewBlocksReport, judge_new_blocks
from scalenet_cli.measure.strength import Strength
from scalenet_cli.tasks.recipes import load_training_recipe
from tests.cli.helpers import Run
from tests.training.children import Server, as_rank, free_port
from tests.training.runs import (
    COMPARABLE,
    InterruptAt,
    Interrupted,
    contents,
    parameters_of,
    slow,
    train,
    watched,
    write_bundle,
)
from tests.training.texts import write_language_bundle, write_texts

SHORT = {**COMPARABLE, "max_steps": 4, "eval_steps": 4, "lr": 0.02}
PLAIN_SGD: dict[str, Any] = {"opt": "momentum", "opt_eps": None, "clip_grad": None}


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ViT of 3 blocks as 6, with gates."""
    return write_bundle(tmp_path_factory.mktemp("identity") / "vit", start="identity")


def judged(run: Path) -> NewBlocksReport:
    return NewBlocksReport.model_validate_json(run.with_suffix(".json").read_bytes())


def loss_without_new_blocks(run: Path, data: Path) -> tuple[float, float]:
    """Mean loss and top-1 of the last bundle's pretrained occurrences, by plain PyTorch."""
    model: Any = load(run / "last")
    assert len(model.blocks) == 6
    model.blocks = nn.Sequential(*model.blocks[::2])
    transform = create_transform(**resolve_data_config({"input_size": (3, 16, 16)}, model=model))
    paths = sorted((data / "validation").rglob("*.png"))
    images = torch.stack([transform(Image.open(path)) for path in paths])
    target = torch.tensor([int(path.parent.name.removeprefix("class")) for path in paths])
    with torch.no_grad():
        logits = model(images)
    right = float((logits.argmax(1) == target).double().mean())
    return float(F.cross_entropy(logits, target)), 100 * right


@pytest.mark.sample(2)
@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.5}], ids=["plain", "average"])
def test_the_report_has_the_scores_without_new_blocks(
    identity: Path, data: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    run = tmp_path / "run"
    report = train(identity, data, run, {**SHORT, **changes}, ablation=True)
    found = report.new_blocks
    assert found is not None
    assert found.num_blocks == 3
    assert found.scores == report.last
    loss, top1 = loss_without_new_blocks(run, data)
    assert found.scores_without["val_loss"] == pytest.approx(loss, rel=1e-5)
    assert found.scores_without["top1"] == pytest.approx(top1)
    assert found.scores_without["val_loss"] != found.scores["val_loss"]
    # What is trained and saved is the same, and a finished run says the same again.
    again = train(identity, data, run, {**SHORT, **changes}, ablation=True, resume=True)
    assert again.new_blocks == found
    train(identity, data, tmp_path / "plain", {**SHORT, **changes})
    assert contents(tmp_path / "plain") == contents(run)


def test_the_strength_is_that_of_the_new_blocks_own_tensors(
    identity: Path, data: Path, tmp_path: Path
) -> None:
    found = train(identity, data, tmp_path / "run", SHORT, ablation=True).new_blocks
    assert found is not None
    model: Any = load(tmp_path / "run" / "last")
    gates, ratios = [], []
    for block in model.blocks[1::2]:
        gates += [block.attn.proj.gate, block.mlp.fc2.gate]
        for linear in (block.mlp.fc1, block.mlp.fc2):
            product = linear.adapter.up.weight @ linear.adapter.down.weight
            ratios.append(float((product.norm() / linear.core.weight.norm()).detach()))
    assert found.mean_gate == pytest.approx(float(torch.cat(gates).detach().abs().mean()), rel=1e-5)
    assert found.adapter_ratio == pytest.approx(sum(ratios) / len(ratios), rel=1e-4)
    assert found.mean_gate > 0
    assert found.adapter_ratio > 0


@pytest.mark.sample(2)
@pytest.mark.parametrize("what", ["no new blocks", "switched off"])
def test_nothing_is_said_where_nothing_is_asked(
    identity: Path, data: Path, tmp_path: Path, what: str
) -> None:
    if what == "no new blocks":
        bundle = write_bundle(tmp_path / "bundle", factor=1)
        assert train(bundle, data, tmp_path / "run", SHORT, ablation=True).new_blocks is None
    else:
        assert train(identity, data, tmp_path / "run", SHORT).new_blocks is None


def test_a_language_model_loses_its_new_blocks_too(tmp_path: Path) -> None:
    texts = write_texts(tmp_path / "texts")
    bundle = write_language_bundle(tmp_path / "bundle", start="identity")
    recipe = {"max_steps": 3, "eval_steps": 3, "batch_size": 4, "lr": 0.02, "max_length": 32}
    report = train(bundle, texts, tmp_path / "run", recipe, ablation=True)
    found = report.new_blocks
    assert found is not None
    assert found.scores == report.last
    assert found.scores_without["perplexity"] == pytest.approx(
        torch.tensor(found.scores_without["val_loss"], dtype=torch.float64).exp().item()
    )
    assert found.scores_without["val_loss"] != found.scores["val_loss"]


def one_rank(rank: int, port: int, bundle: Path, data: Path, run: Path, sharding: str) -> None:
    with as_rank(rank, 2, port):
        report = train(bundle, data, run, SHORT, sharding=sharding, ablation=True)
    assert report.new_blocks is not None
    if rank == 0:
        run.with_suffix(".json").write_text(report.new_blocks.model_dump_json())


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_ranks_say_what_one_says(
    server: Server, identity: Path, data: Path, tmp_path: Path, sharding: str
) -> None:
    one = train(identity, data, tmp_path / "one", SHORT, ablation=True).new_blocks
    port, run = free_port(), tmp_path / "two"
    children = [
        server.start(
            run.with_suffix(f".{rank}"), one_rank, rank, port, identity, data, run, sharding
        )
        for rank in range(2)
    ]  # fmt: skip
    assert [child.wait() for child in children] == [0, 0]
    two = judged(run)
    assert one is not None
    assert two.scores_without == pytest.approx(one.scores_without, abs=1e-5)
    assert two.mean_gate == pytest.approx(one.mean_gate, abs=1e-6)
    assert two.adapter_ratio == pytest.approx(one.adapter_ratio, abs=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_blocks_are_left_out_too(identity: Path, data: Path, tmp_path: Path) -> None:
    torch._dynamo.reset()
    plain = train(identity, data, tmp_path / "plain", SHORT, ablation=True).new_blocks
    recipe = {**SHORT, "compile": True}
    compiled = train(identity, data, tmp_path / "compiled", recipe, ablation=True).new_blocks
    assert plain is not None
    assert compiled is not None
    assert compiled.scores_without == pytest.approx(plain.scores_without, abs=1e-4)
    assert compiled.scores_without["val_loss"] != pytest.approx(plain.scores["val_loss"], abs=1e-4)


@pytest.mark.parametrize(
    ("with_them", "without", "gate", "trained", "verdict", "says"),
    [
        ((82.5, 0.50), (80.0, 0.55), 0.3, ("gates",), "useful", None),
        ((82.5, 0.50), (82.4, 0.505), 0.007, ("gates",), "nothing", "lr_scale='{gates: 10}'"),
        ((82.5, 0.50), (82.4, 0.505), 0.0, ("norms",), "nothing", "train gates as well"),
        ((82.5, 0.50), (82.4, 0.505), None, ("adapters",), "nothing", "higher learning rate"),
        ((82.5, 0.50), (81.5, 0.505), 0.1, ("gates",), "useful", None),
        ((81.5, 0.50), (82.5, 0.495), 0.1, ("gates",), "harmful", "better without"),
        ((82.5, 0.50), (82.5, 0.48), 0.1, ("gates",), "harmful", "better without"),
        ((82.5, 0.50), (10.0, float("nan")), 0.1, ("gates",), "useful", None),
        ((28.0, 6.32), (28.0, 6.35), 0.001, ("gates",), "nothing", "lr_scale"),
    ],
)
def test_verdicts(
    with_them: tuple[float, float], without: tuple[float, float], gate: float | None,
    trained: Any, verdict: str, says: str | None,
) -> None:  # fmt: skip
    scores, others = ({"top1": top1, "val_loss": loss} for top1, loss in (with_them, without))
    found = judge_new_blocks(
        6, Strength(gate, 0.01), scores, others, num_samples=2000, trained=trained,
        accuracy="top1",
    )  # fmt: skip
    assert found.verdict == verdict
    assert (found.advice is None) == (says is None)
    assert says is None or says in str(found.advice)


def test_the_command_says_it_in_words_and_in_json(
    run: Run, identity: Path, data: Path, tmp_path: Path
) -> None:
    arguments = ["finetune", identity, "--data", data, "-o", tmp_path / "run", "--workers", 0]
    arguments += ["--device", "cpu", "--max-steps", 1, "--batch-size", 8, "--lr", 1e-6]
    arguments += ["--set", "min_lr=0", "--set", "mixup=0", "--set", "cutmix=0"]
    result: Result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    assert "without the 3 new blocks  top-1 " in result.stdout
    assert "mean absolute gate of new blocks: 1" in result.stdout
    assert "the new blocks learned next to nothing: train longer or on more" in result.stdout
    found = json.loads(run(*arguments, "--resume", "--json").stdout)["new_blocks"]
    assert found["verdict"] == "nothing"
    assert found["advice"].startswith("the new blocks learned next to nothing")
    off = json.loads(run(*arguments, "--resume", "--no-ablation", "--json").stdout)
    assert off["new_blocks"] is None


class Listener(InterruptAt):
    """A reporter that keeps the notes, and never interrupts."""

    def __init__(self) -> None:
        super().__init__(-1)
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_gates_that_a_run_leaves_at_0_are_told_until_one_trains_them(
    identity: Path, data: Path, tmp_path: Path
) -> None:
    told = []
    recipe = {**SHORT, "max_steps": 1, "eval_steps": 1}
    for name, bundle, groups in (
        ("norms", identity, ["norms"]),
        ("gates", identity, ["gates"]),
        ("after", tmp_path / "gates" / "last", ["norms"]),
    ):
        listener = Listener()
        train(bundle, data, tmp_path / name, {**recipe, "train": groups}, reporter=listener)
        told.append([note for note in listener.notes if "gates of 0" in note])
    assert [len(notes) for notes in told] == [1, 0, 0]
    assert "they never do anything; add gates to train" in told[0][0]


def test_rates_of_groups_multiply_the_recipes(identity: Path, data: Path, tmp_path: Path) -> None:
    recipe = {**SHORT, "train": "all", "max_steps": 2, "eval_steps": 2}
    scale = {"gates": 10, "adapters": 0.5}
    with watched() as plain:
        train(identity, data, tmp_path / "plain", {**recipe, "layer_decay": 0.7})
    with watched() as scaled:
        changes = {"layer_decay": 0.7, "lr_scale": scale}
        train(identity, data, tmp_path / "scaled", {**recipe, **changes})
    for one, other in zip(plain.steps, scaled.steps, strict=True):
        assert one.rates.keys() == other.rates.keys()
        assert one.decays == other.decays
        for key, rate in one.rates.items():
            factor = 10 if key.endswith(".gate") else 0.5 if ".adapter." in key else 1
            assert other.rates[key] == pytest.approx(rate * factor, rel=1e-12), key
    assert any(key.endswith(".gate") for key in plain.steps[0].rates)


def test_a_step_is_as_long_as_its_group_says(identity: Path, data: Path, tmp_path: Path) -> None:
    """Under plain SGD, where the step is the rate times the gradient."""
    recipe = {**SHORT, **PLAIN_SGD, "momentum": 0, "weight_decay": 0, "max_steps": 1}
    before = parameters_of(load(identity))
    moved = {}
    for name, scale in (("plain", {}), ("scaled", {"gates": 10, "adapters": 0.5})):
        train(identity, data, tmp_path / name, {**recipe, "eval_steps": 1, "lr_scale": scale})
        after = parameters_of(load(tmp_path / name / "last"))
        moved[name] = {key: after[key] - before[key] for key in before}
    for key, step in moved["plain"].items():
        factor = 10 if key.endswith(".gate") else 0.5 if ".adapter." in key else 1
        assert torch.allclose(moved["scaled"][key], factor * step, rtol=1e-3, atol=2e-6), key


@pytest.mark.parametrize("opt", ["adamw", *map(slow, ("muon", "lamb", "adan", "adafactor"))])
def test_scaled_rates_are_resumed_bit_for_bit(
    identity: Path, data: Path, tmp_path: Path, opt: str
) -> None:
    recipe = {**SHORT, "opt": opt, "lr_scale": {"gates": 10}, "save_steps": 1}
    if opt not in ("adamw", "lamb"):
        recipe["opt_eps"] = None
    train(identity, data, tmp_path / "whole", recipe)
    with pytest.raises(Interrupted):
        train(identity, data, tmp_path / "run", recipe, reporter=InterruptAt(3))
    train(identity, data, tmp_path / "run", recipe, resume=True)
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_without_factors_the_optimizer_is_timms_own(
    identity: Path, data: Path, tmp_path: Path
) -> None:
    train(identity, data, tmp_path / "plain", SHORT)
    train(identity, data, tmp_path / "ones", {**SHORT, "lr_scale": {"gates": 1}})
    plain, ones = (open_bundle(tmp_path / name / "last").manifest for name in ("plain", "ones"))
    assert plain.tensors("instances") == ones.tensors("instances")


def test_unknown_groups_have_no_rate() -> None:
    with pytest.raises(PlanErrors, match=r"unknown key `gatez`(?s:.*)did you mean `gates`"):
        load_training_recipe(None, {"lr_scale": {"gatez": 10}})
    with pytest.raises(PlanErrors, match="greater than 0"):
        load_training_recipe(None, {"lr_scale": {"gates": 0}})


def test_a_rate_for_what_is_not_trained_is_refused(
    bundle: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match="lr_scale names gates") as caught:
        train(bundle, data, tmp_path / "run", {**SHORT, "lr_scale": {"gates": 10}})
    assert "norms, adapters" in str(caught.value.hint)
    assert not (tmp_path / "run").exists()

"""Runs of language models through the engine: the same laws as for images."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_hook
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_outputs import CausalLMOutputWithPast

from scalenet_cli import load, verify
from scalenet_cli.bundle.read import open_bundle
from scalenet_cli.surgery import verify_ties
from scalenet_cli.tasks.causal_lm.data.samples import grouped_order
from tests.training.children import Server
from tests.training.runs import (
    BOUND,
    InterruptAt,
    Interrupted,
    contents,
    copies,
    largest_difference,
    losses,
    metrics,
    parameters_of,
    slow,
    state_of,
    train,
    watched,
)
from tests.training.test_ranks import assert_equal_runs, on_ranks
from tests.training.texts import (
    RECIPE,
    instructions,
    write_language_bundle,
    write_records,
    write_texts,
)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama whose head is its embedding, expanded; only the instances' tensors are trained."""
    return write_language_bundle(tmp_path_factory.mktemp("decoders") / "bundle")


def encoded(path: Path, tokenizer: Any) -> list[tuple[list[int], list[int]]]:
    """Ids and labels of instruction records without a template, as a script would make them."""
    rows = []
    for line in path.read_text().splitlines():
        record = json.loads(line)
        prompt = tokenizer(f"{record['instruction']}\n\n")["input_ids"]
        answer = [*tokenizer(record["output"], add_special_tokens=False)["input_ids"], 2]
        rows.append((prompt + answer, [-100] * len(prompt) + answer))
    return rows


def step_loss(model: Any, rows: list[tuple[list[int], list[int]]]) -> torch.Tensor:
    """One row at a time, so that nothing is padded; the mean over all targets together."""
    sums, count = [], 0
    for ids, labels in rows:
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
        expected = torch.tensor(labels[1:])
        sums.append(F.cross_entropy(logits, expected, ignore_index=-100, reduction="sum"))
        count += int((expected != -100).sum())
    return torch.stack(sums).sum() / count


def plain_transformers(source: Path, texts: Path, recipe: dict[str, Any]) -> Any:
    """Training and validation as a script on transformers and torch would do it."""
    model: Any = AutoModelForCausalLM.from_pretrained(source)
    tokenizer = AutoTokenizer.from_pretrained(source)
    rows = encoded(texts / "train.jsonl", tokenizer)
    model.train()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": others, "weight_decay": 0.0}, {"params": decayed}]
    optimizer = torch.optim.AdamW(groups, lr=recipe["lr"], weight_decay=0.05, eps=1e-4)
    per_epoch = len(rows) // 8
    steps, warmup = recipe["epochs"] * per_epoch, per_epoch
    lengths = torch.tensor([len(ids) for ids, _ in rows]).numpy()
    found = []
    for step in range(steps):
        cosine = (1 + math.cos(math.pi * step / steps)) / 2
        rate = recipe["lr"] * (step / warmup if step < warmup else cosine)
        for group in optimizer.param_groups:
            group["lr"] = rate
        epoch, offset = divmod(step, per_epoch)
        picked = grouped_order(lengths, 8, 0, epoch)[offset * 8 : offset * 8 + 8]
        loss = step_loss(model, [rows[int(index)] for index in picked])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        found.append(loss.item())
    with torch.no_grad():
        val = step_loss(model.eval(), encoded(texts / "validation.jsonl", tokenizer))
    return found, float(val), model


@pytest.mark.parametrize("name", ["llama_tied", slow("qwen3"), slow("gemma3")])
def test_training_a_base_equals_plain_transformers(texts: Path, tmp_path: Path, name: str) -> None:
    bundle = write_language_bundle(
        tmp_path / "base", name, factor=1, adapter={"type": "none"}, train="all"
    )
    run = tmp_path / "run"
    report = train(bundle, texts, run, RECIPE)
    expected, val, model = plain_transformers(tmp_path / "base-source", texts, dict(RECIPE))
    assert losses(run) == pytest.approx(expected, abs=5e-6, rel=0)
    assert report.metric == "perplexity"
    assert report.last["perplexity"] == pytest.approx(math.exp(val), rel=1e-5)
    assert report.best == min(
        line["perplexity"] for line in metrics(run)[1:] if "perplexity" in line
    )
    difference, key = largest_difference(
        parameters_of(load(run / "last")), copies(dict(model.named_parameters()))
    )
    assert difference < 5e-6, key


def test_frozen_tensors_never_change(decoder: Path, texts: Path, tmp_path: Path) -> None:
    before = parameters_of(load(decoder))
    with watched() as watch:
        train(decoder, texts, tmp_path / "run", {**RECIPE, "max_steps": 2, "ema_decay": 0.5})
    trained = set(watch.steps[0].tensors)
    assert all(seen.with_gradient == trained for seen in watch.steps)
    assert not any("_proj.weight" in key or "embed" in key for key in trained)
    for name in ("last", "best"):
        after = parameters_of(load(tmp_path / "run" / name))
        assert all(torch.equal(before[key], after[key]) for key in before.keys() - trained)
        verify(tmp_path / "run" / name, source=str(decoder.with_name("bundle-source")))
        ties = open_bundle(tmp_path / "run" / name).manifest.ties
        verify_ties(load(tmp_path / "run" / name), ties)
    assert AutoTokenizer.from_pretrained(tmp_path / "run" / "best").eos_token == "</s>"


CHANGES = [
    {"accumulate": 2, "train": "all"},
    slow({"accumulate": 4, "packing": True, "max_length": 32, "batch_size": 4}),
    slow({"accumulate": 2, "group_by_length": False}),
]


@pytest.mark.parametrize("changes", CHANGES)
def test_accumulation_equals_one_batch(
    decoder: Path, texts: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Although micro-batches have other numbers of targets."""
    recipe = {**RECIPE, **changes}
    train(decoder, texts, tmp_path / "one", {**recipe, "accumulate": 1})
    train(decoder, texts, tmp_path / "more", recipe)
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "more"), abs=BOUND, rel=0)
    difference, key = largest_difference(state_of(tmp_path / "one"), state_of(tmp_path / "more"))
    assert difference < BOUND, key


@pytest.mark.parametrize("name", ["llama_tied", slow("gemma3")])
def test_checkpointed_gradients_are_the_same(texts: Path, tmp_path: Path, name: str) -> None:
    bundle = write_language_bundle(tmp_path / "bundle", name)
    recipe = {**RECIPE, "train": "all", "max_steps": 3}
    train(bundle, texts, tmp_path / "plain", recipe)
    train(bundle, texts, tmp_path / "again", {**recipe, "gradient_checkpointing": True})
    assert losses(tmp_path / "plain") == losses(tmp_path / "again")
    difference, key = largest_difference(state_of(tmp_path / "plain"), state_of(tmp_path / "again"))
    assert difference == 0, key


def test_interrupted_run_goes_on_bit_for_bit(decoder: Path, texts: Path, tmp_path: Path) -> None:
    recipe = {**RECIPE, "save_steps": 3, "ema_decay": 0.9}
    train(decoder, texts, tmp_path / "whole", recipe)
    with pytest.raises(Interrupted):
        train(decoder, texts, tmp_path / "run", recipe, reporter=InterruptAt(5))
    train(decoder, texts, tmp_path / "run", recipe, resume=True)
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


RANKS = [
    ("fsdp", {"train": "all"}),
    slow("ddp", {"train": "all"}),
    slow("ddp", {}),
    slow("fsdp", {"accumulate": 2}),
    slow("fsdp", {"packing": True, "max_length": 32, "batch_size": 4}),
]


@pytest.mark.parametrize(("sharding", "changes"), RANKS)
def test_two_ranks_equal_one_process(
    server: Server, decoder: Path, texts: Path, tmp_path: Path, sharding: str,
    changes: dict[str, Any],
) -> None:  # fmt: skip
    """The head is the embedding, and blocks share their Linears: one group each under FSDP2."""
    recipe = {**RECIPE, **changes}
    train(decoder, texts, tmp_path / "one", recipe)
    assert on_ranks(server, decoder, texts, tmp_path / "two", recipe, 2, sharding) == [0, 0]
    assert_equal_runs(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_a_run_of_two_ranks_goes_on_in_one(
    server: Server, decoder: Path, texts: Path, tmp_path: Path, sharding: str
) -> None:
    recipe = {**RECIPE, "train": "all", "save_steps": 3}
    train(decoder, texts, tmp_path / "one", recipe)
    run = tmp_path / "run"
    assert 0 not in on_ranks(server, decoder, texts, run, recipe, 2, sharding, InterruptAt(5))
    train(decoder, texts, run, recipe, resume=True)
    assert_equal_runs(tmp_path / "one", run)


def test_the_head_answers_only_where_something_is_learned(
    decoder: Path, texts: Path, tmp_path: Path
) -> None:
    """The logits of a long prompt would take more memory than all the rest."""
    shapes = []

    def listen(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, CausalLMOutputWithPast):
            shapes.append(output.logits.shape)

    handle = register_module_forward_hook(listen)
    train(decoder, texts, tmp_path / "run", {**RECIPE, "max_steps": 2, "eval_steps": 2})
    handle.remove()
    rows = encoded(texts / "train.jsonl", AutoTokenizer.from_pretrained(decoder))
    most = max(sum(label != -100 for label in labels) for _, labels in rows)
    assert {len(shape) for shape in shapes} == {2}
    assert max(shape[0] for shape in shapes) <= RECIPE["batch_size"] * most


@pytest.mark.slow
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["llama", "llama_tied"])
def test_shards_of_two_types_compute_what_copies_do(
    server: Server, texts: Path, tmp_path: Path, name: str, stored: torch.dtype
) -> None:
    """Frozen weights are in bfloat16 there. Without adapters, which DDP fuses and FSDP2 does not,
    so that they round otherwise; and not one process, whose whole batch rounds otherwise."""
    plain = {"type": "none"}
    bundle = write_language_bundle(tmp_path / "bundle", name, adapter=plain, dtype=stored)
    recipe = {**RECIPE, "precision": "bf16", "max_steps": 6, "train": ["norms"]}
    for sharding in ("ddp", "fsdp"):
        run = tmp_path / sharding
        assert on_ranks(server, bundle, texts, run, recipe, 2, sharding) == [0, 0]
    assert_equal_runs(tmp_path / "ddp", tmp_path / "fsdp")


def test_a_file_alone_is_split(decoder: Path, tmp_path: Path) -> None:
    data = write_records(tmp_path / "all.jsonl", instructions(40))
    told: list[str] = []

    class Listener(InterruptAt):
        def note(self, text: str) -> None:
            told.append(text)

    recipe = {**RECIPE, "max_steps": 1, "val_share": 0.1}
    train(decoder, data, tmp_path / "run", recipe, reporter=Listener(99))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["train"]["num_samples"], record["val"]["num_samples"]) == (36, 4)
    assert "4 records are held out" in told[0]
    assert "36 records (none template) are 36 sequences" in told[1]


def test_a_book_alone_is_trained_on(decoder: Path, tmp_path: Path) -> None:
    lines = [record["instruction"] for record in instructions(60)]
    (tmp_path / "book.txt").write_text("\n".join(lines))
    recipe = {**RECIPE, "max_steps": 1, "batch_size": 2}
    report = train(decoder, tmp_path / "book.txt", tmp_path / "run", recipe)
    assert report.steps == 1

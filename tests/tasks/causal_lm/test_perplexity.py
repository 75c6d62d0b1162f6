"""Perplexity against the plain loop of transformers' own guide."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scalenet_cli.errors import LossNotFinite, OptionError
from scalenet_cli.families.architecture import Architecture
from scalenet_cli.families.build_decoder import create_decoder
from scalenet_cli.families.decoder_configs import MODEL_TYPES
from scalenet_cli.models.target import open_target
from scalenet_cli.tasks.causal_lm.data.record import Record
from scalenet_cli.tasks.causal_lm.data.tokenizers import load_tokenizer
from scalenet_cli.tasks.causal_lm.evaluation import scoring
from scalenet_cli.tasks.causal_lm.evaluation.perplexity import (
    Perplexity,
    Windows,
    choose_windows,
    measure_perplexity,
    split_windows,
)
from scalenet_cli.tasks.causal_lm.evaluation.scoring import Loss
from scalenet_cli.tasks.causal_lm.load_model import OpenedLanguageModel, load_language_model
from scalenet_cli.training.devices import Devices
from tests.models import ARCHITECTURES
from tests.tasks.causal_lm.helpers import TEXTS, write_model, write_tokenizer

ONE = Devices(torch.device("cpu"), 0, 1)
DOCUMENTS = (*TEXTS, "cat", "", "the", " ".join(TEXTS))


def plain_loop(model: Any, tokenizer: Any, texts: tuple[str, ...], windows: Windows) -> float:
    """As in https://huggingface.co/docs/transformers/perplexity, one document after the other."""
    total, count = 0.0, 0
    for text in texts:
        ids = tokenizer(text, return_tensors="pt").input_ids.long()
        previous_end = 0
        for begin in range(0, ids.shape[1], windows.stride):
            end = min(begin + windows.context, ids.shape[1])
            labels = ids[:, begin:end].clone()
            labels[:, : -(end - previous_end)] = -100
            targets = int((labels[:, 1:] != -100).sum())
            if targets:
                with torch.no_grad():
                    loss = model(ids[:, begin:end], labels=labels).loss
                total, count = total + float(loss) * targets, count + targets
            previous_end = end
            if end == ids.shape[1]:
                break
    return math.exp(total / count)


def measure(
    model: Any, tokenizer: Any, windows: Windows, batch_size: int, texts: Any = DOCUMENTS
) -> Perplexity:
    records = [Record({"text": text}, f"x.jsonl:{at}") for at, text in enumerate(texts, 1)]
    return measure_perplexity(
        model, tokenizer, records, ONE, windows=windows, batch_size=batch_size
    )


@pytest.fixture
def opened(tmp_path: Path) -> OpenedLanguageModel:
    return load_language_model(open_target(write_model(tmp_path / "model"), weights=True))


@pytest.mark.sample(4)
@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_it_equals_the_plain_loop(tmp_path: Path, kind: str) -> None:
    config = {**ARCHITECTURES["llama"].arguments, "model_type": kind, "sliding_window": 8}
    config |= {"final_logit_softcapping": 0.5} if kind == "gemma2" else {}
    torch.manual_seed(0)
    model = create_decoder(Architecture("llama", kind, config))
    tokenizer = load_tokenizer(write_tokenizer(tmp_path))
    for windows in (Windows(64, 32), Windows(16, 5), Windows(9, 8)):
        expected = plain_loop(model, tokenizer, DOCUMENTS, windows)
        for batch_size in (1, 4):
            found = measure(model, tokenizer, windows, batch_size)
            assert found.perplexity == pytest.approx(expected, rel=2e-6)


def test_logits_are_never_whole(
    opened: OpenedLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = measure(opened.model, opened.tokenizer, Windows(64, 32), 4)
    monkeypatch.setattr(scoring, "_LOGITS", 64 * 3)
    parts = measure(opened.model, opened.tokenizer, Windows(64, 32), 4)
    assert parts.loss_sum == pytest.approx(whole.loss_sum, rel=1e-7)


def test_counts(opened: OpenedLanguageModel) -> None:
    found = measure(opened.model, opened.tokenizer, Windows(32, 16), 3)
    lengths = [len(opened.tokenizer(text).input_ids) for text in DOCUMENTS]
    assert found.num_documents == len(DOCUMENTS)
    assert found.num_empty == sum(length < 2 for length in lengths) >= 2
    assert found.num_windowed == sum(length > 32 for length in lengths)
    assert found.num_tokens == sum(lengths)
    assert found.num_targets == sum(max(0, length - 1) for length in lengths)
    assert found.num_bytes == sum(len(DOCUMENTS[at]) for at, n in enumerate(lengths) if n > 1)
    bits = found.loss * found.num_targets / math.log(2) / found.num_bytes
    assert found.bits_per_byte == pytest.approx(bits)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 60), st.integers(2, 20), st.data())
def test_every_token_but_the_first_is_a_target_once(
    size: int, context: int, data: st.DataObject
) -> None:
    windows = Windows(context, data.draw(st.integers(1, context - 1)))
    targets = []
    for begin, end, first in split_windows(size, windows):
        assert 0 <= begin < first < end <= min(size, begin + context)
        targets += range(first, end)
    assert targets == list(range(1, size))


def test_windows_are_chosen_by_the_model() -> None:
    assert choose_windows(8192, None, None) == Windows(1024, 512)
    assert choose_windows(256, None, None) == Windows(256, 128)
    assert choose_windows(256, 2, None) == Windows(2, 1)
    for context, stride in ((257, None), (1, None), (8, 8), (8, 0)):
        with pytest.raises(OptionError):
            choose_windows(256, context, stride)


def test_a_model_that_answers_nan(opened: OpenedLanguageModel) -> None:
    with torch.no_grad():
        opened.model.model.norm.weight[3] = float("nan")
    texts = TEXTS[:2] + DOCUMENTS[:3]
    with pytest.raises(LossNotFinite, match="NaN or infinity to 5 of 5") as raised:
        measure(opened.model, opened.tokenizer, Windows(128, 64), 3, texts)
    assert raised.value.where == "x.jsonl:1"


def test_a_perplexity_that_no_number_holds() -> None:
    assert Loss(num_targets=1, loss_sum=800.0).perplexity == math.inf

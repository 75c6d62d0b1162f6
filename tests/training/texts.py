"""Tiny runs of language models: a tokenizer of words, records, bundles."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from scalenet_cli import expand_checkpoint
from scalenet_cli.plan.load import plan_from_dict
from tests.laws.building import write_source
from tests.models import tiny_case
from tests.training.runs import PLAN

WORDS: Final = ("<pad>", "<s>", "</s>", "<unk>", *(f"w{number}" for number in range(4, 60)))
# Rows of a chat: a turn opens with its role, and ends with an end-of-turn.
CHAT: Final = (
    "{% for m in messages %}w4 {{ m['role'] }} {{ m['content'] }} </s> {% endfor %}"
    "{% if add_generation_prompt %}w4 assistant {% endif %}"
)
# Nothing random but the order; AdamW's epsilon as in tests.training.runs.
RECIPE: Final[Mapping[str, Any]] = {
    "epochs": 2,
    "batch_size": 8,
    "lr": 5e-3,
    "warmup_epochs": 1,
    "weight_decay": 0.05,
    "log_steps": 1,
    "opt_eps": 1e-4,
    "max_length": 24,
    "template": "none",
}


def write_tokenizer(
    folder: Path, *, chat: str | None = None, ends: bool = False
) -> PreTrainedTokenizerFast:
    """A word is a token, with BOS in front, and EOS behind if it ``ends``; saved as usual."""
    backend = Tokenizer(
        models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if ends else "<s> $A", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        pad_token="<pad>", clean_up_tokenization_spaces=False,
    )  # fmt: skip
    tokenizer.chat_template = chat
    tokenizer.save_pretrained(folder)
    return tokenizer


def instructions(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Answers that repeat words of the question: there is something to learn."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        size = int(torch.randint(2, 9, (1,), generator=generator))
        words = [f"w{int(n)}" for n in torch.randint(5, 40, (size,), generator=generator)]
        question, answer = " ".join(words), " ".join(words[::-1][: 1 + size // 2])
        found.append({"instruction": question, "input": "", "output": answer})
    return found


def write_records(path: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    """One JSON object per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def write_texts(root: Path) -> Path:
    """A folder with both splits: 34 records to train on, 13 to validate."""
    write_records(root / "train.jsonl", instructions(34))
    write_records(root / "validation.jsonl", instructions(13, seed=1))
    return root


def write_language_bundle(
    folder: Path,
    name: str = "llama_tied",
    *,
    chat: str | None = None,
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> Path:
    """A tiny decoder with a tokenizer, expanded; keyword arguments change the plan."""
    case = tiny_case(name)
    case.model.to(dtype)
    source = write_source(case, folder.with_name(f"{folder.name}-source"))
    write_tokenizer(source, chat=chat)
    expand_checkpoint(source, plan_from_dict({**PLAN, **changes}), folder)
    return folder

"""A tiny tokenizer, and tiny decoders that have it."""

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.cli.helpers import write_decoder

TEXTS: Final = (
    "the cat sat on the mat and the dog sat on the log. where is the cat?",
    "a dog and a cat are on a mat: the dog is at the mat, the cat is on it.",
    "is it a log? no, it is the cat. it sat there, and then the dog sat there.",
)
MORE: Final = ("user: what was it? then where did it go, and who saw the dog on that mat?",)
SPECIAL: Final = ("<pad>", "<s>", "</s>", "<unk>")
TEMPLATE: Final = "{% for m in messages %}user: {{ m.content }} {% endfor %}dog: "

# A task of lm-eval on a file of questions.
TASK: Final = """\
task: local_questions
dataset_path: json
dataset_kwargs: {{data_files: {{validation: {path}}}}}
output_type: multiple_choice
validation_split: validation
doc_to_text: "{{{{query}}}}"
doc_to_target: gold
doc_to_choice: choices
target_delimiter: " "
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""


@cache
def _trained(size: int) -> str:
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=list(SPECIAL))
    backend.train_from_iterator([*TEXTS, "\n\t", *MORE] * 5, trainer)
    return str(backend.to_str())


def write_tokenizer(folder: Path, *, size: int = 64, template: str | None = None) -> Path:
    """A byte-level BPE of the tiny decoders' 64 tokens; BOS is not added."""
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained(size)),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        chat_template=template,
    )
    made.save_pretrained(folder)
    return folder


def write_model(folder: Path, name: str = "llama", **config: Any) -> Path:
    """A tiny random decoder with a tokenizer, as a Hugging Face folder."""
    return write_tokenizer(write_decoder(folder, name, config=config))


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """A file of JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_texts(path: Path, texts: Iterable[str] = TEXTS) -> Path:
    """Records of text."""
    return write_lines(path, ({"text": text} for text in texts))


def questions(count: int) -> list[dict[str, Any]]:
    """Records of questions: two to four choices, queries that end in words, signs and spaces."""
    words = ("cat", "the dog", "a mat on the log", "it", "there, and then there")
    ends = ("", ":", " ", "?\n", ".\n\n ")
    return [
        {
            "query": TEXTS[at % 3][at : 20 + 2 * at] + ends[at % 5],
            "choices": [words[(at + step) % 5] for step in range(2 + at % 3)],
            "gold": at % 2,
        }
        for at in range(count)
    ]


def write_questions(path: Path, count: int = 12) -> Path:
    """Records of questions in a file."""
    return write_lines(path, questions(count))

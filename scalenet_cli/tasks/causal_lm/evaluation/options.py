"""What an evaluation of a language model measures, and how."""

from dataclasses import dataclass, field
from pathlib import Path

from scalenet_cli.errors import OptionError
from scalenet_cli.models.source_options import SourceOptions
from scalenet_cli.tasks.causal_lm.data.templates import Template
from scalenet_cli.tasks.requests import Device, Precision


@dataclass(frozen=True, slots=True)
class LanguageOptions:
    """What to measure on, and how.

    ``data`` are files, folders or ``hf:`` references; records of text give perplexity, records
    {query, choices, gold} give accuracy, and records to finetune on the perplexity of their
    answers, written by ``template``. ``tasks`` are lm-eval's names, or those of descriptions below
    ``include_path``, whose code is run. A limit takes evenly spaced records of each data, and the
    first of each task. ``context`` is by default 1024 for perplexity, 512 for answers, or what the
    model is made for where that is less, and for questions what it is made for. ``precision``
    converts the tensors; by default they stay as they are stored.
    """

    data: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    num_fewshot: int | None = None
    apply_chat_template: bool = False
    include_path: Path | None = None
    split: str | None = None
    limit: int | None = None
    context: int | None = None
    stride: int | None = None
    delimiter: str = " "
    template: Template = "auto"
    tokenizer: str | None = None
    batch_size: int = 8
    device: Device = "auto"
    precision: Precision | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        least = {"limit": 1, "batch_size": 1, "num_fewshot": 0}
        given = (self.limit, self.batch_size, self.num_fewshot)
        for (name, smallest), value in zip(least.items(), given, strict=True):
            if value is not None and value < smallest:
                raise OptionError(f"{name} is {value}, and has to be at least {smallest}")
        self._refuse_without_tasks()
        twice = [name for name in self.tasks if self.tasks.count(name) > 1]
        if twice:
            raise OptionError(f"--tasks has {twice[0]} twice")

    def _refuse_without_tasks(self) -> None:
        """Options of lm-eval would change nothing of data."""
        given = {
            "--num-fewshot": self.num_fewshot is not None,
            "--apply-chat-template": self.apply_chat_template,
            "--include-path": self.include_path is not None,
        }
        name = next((name for name, is_given in given.items() if is_given), None)
        if name is not None and not self.tasks:
            raise OptionError(f"{name} is for --tasks: questions in files come as they are")


@dataclass(frozen=True, slots=True)
class LanguageEvaluation:
    """One evaluation: the target, how, and which metrics the data have to give."""

    target: str
    how: LanguageOptions
    options: SourceOptions = field(default_factory=SourceOptions)
    wanted: frozenset[str] = frozenset()

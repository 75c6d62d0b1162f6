"""Language models and sequences of tokens for a diagnosis."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from scalenet_cli.measure.diagnosed_model import DiagnosedModel, require_room
from scalenet_cli.measure.model_outputs import Samples
from scalenet_cli.models.target import use_target
from scalenet_cli.tasks.causal_lm.data.corpus import evaluation_records, longest
from scalenet_cli.tasks.causal_lm.data.examples import ExampleMaker
from scalenet_cli.tasks.causal_lm.data.samples import IGNORED, TokenRows, collate_rows
from scalenet_cli.tasks.causal_lm.data.sequences import Sequences, shortfalls, tokenize
from scalenet_cli.tasks.causal_lm.load_model import load_language_model
from scalenet_cli.training.data import evenly_spaced

if TYPE_CHECKING:
    from scalenet_cli.tasks.requests import Diagnosis

DEFAULT_BATCH = 4


def open_texts(work: "Diagnosis", target: str, *, held: int = 0) -> DiagnosedModel:
    """A language model, and records as the sequences that ``finetune`` would make of them.

    ``held`` is what samples and features of another model take, in bytes.

    Raises:
        ScalenetError: the target or the data cannot be used.
    """
    how = work.how
    records = evaluation_records(work.data, work.how.split, work.how.limit, target=target)
    opened = use_target(
        target,
        lambda opened: load_language_model(opened, tokenizer=how.tokenizer, precision="fp32"),
        work.options_of(target),
    )
    length = longest(how.max_length, opened.num_positions, "--max-length")
    maker = ExampleMaker(opened.tokenizer, how.template, train_on_prompt=False)
    examples = (maker.make(record) for record in records)
    found = tokenize(
        examples, opened.tokenizer, max_length=length, num_embeddings=opened.num_embeddings,
        where=work.data,
    )  # fmt: skip
    widths = [stage.width for stage in opened.family.stages(opened.model)]
    chosen = evenly_spaced(len(found), min(how.limit, len(found)))
    needed = require_room(
        len(chosen), 16 * length, layout=opened.layout, widths=widths, cka_tokens=how.cka_tokens,
        held=held,
    )  # fmt: skip
    return DiagnosedModel(
        name=target, model=opened.model, family=opened.family, architecture=opened.architecture,
        layout=opened.layout,
        batches=tuple(_batches(found, chosen, how.batch_size or DEFAULT_BATCH)), place=work.data,
        preparation={"max_length": length, "template": maker.template},
        notes=(*opened.notes, *_told(found), *maker.unread.notes()), held_bytes=needed,
    )  # fmt: skip


def _told(found: Sequences) -> Iterator[str]:
    for fact in shortfalls(found):
        yield f"of the records, {fact}"


def _batches(found: Sequences, chosen: Sequence[int], size: int) -> Iterator[Samples]:
    rows = TokenRows(found, room=None, longest_first=False)
    for begin in range(0, len(chosen), size):
        batch = collate_rows([rows[at] for at in chosen[begin : begin + size]])
        # What a position predicts is the token after it.
        labels_BN = batch.labels_BN.roll(-1, dims=1)
        labels_BN[:, -1] = IGNORED
        lengths = found.lengths[list(chosen[begin : begin + size])]
        lengths_B = batch.tokens_BN.new_tensor(lengths.tolist())
        inputs = {"input_ids": batch.tokens_BN, "use_cache": False}
        yield Samples(inputs, labels_BN, lengths_B, begin)

"""One text of ``scalenet generate``."""

import time
from typing import TYPE_CHECKING

from scalenet_cli.errors import OptionError
from scalenet_cli.models.source_options import SourceOptions
from scalenet_cli.models.target import use_target
from scalenet_cli.tasks.causal_lm.data.prompts import encode_prompt
from scalenet_cli.tasks.causal_lm.data.templates import BARE, Chosen, choose_template
from scalenet_cli.tasks.causal_lm.data.tokenizers import check_ids
from scalenet_cli.tasks.causal_lm.generation.report import GenerateReport
from scalenet_cli.tasks.causal_lm.generation.sampling import Sampling, generate_text
from scalenet_cli.tasks.causal_lm.load_model import OpenedLanguageModel, load_language_model
from scalenet_cli.training.devices import find_device
from scalenet_cli.training.failures import explained
from scalenet_cli.training.world import require_single

if TYPE_CHECKING:
    from scalenet_cli.tasks.causal_lm.generation.options import GenerateOptions, Listener


def run_generation(
    target: str,
    prompt: str,
    how: "GenerateOptions",
    options: SourceOptions,
    listener: "Listener | None",
) -> GenerateReport:
    """Opens, writes and reports; see generate."""
    require_single("generate")
    device = find_device(how.device)
    opened = use_target(
        target,
        lambda found: load_language_model(found, tokenizer=how.tokenizer, precision=how.precision),
        options,
    )
    template, told = _template(opened, how)
    is_instruction = bool(prompt and told) and template == "none"
    asked = BARE.format(instruction=prompt) if is_instruction else prompt
    ids = encode_prompt(opened.tokenizer, asked, template, system=how.system)
    left = _room(opened, ids)
    sampling = Sampling(
        max_new_tokens=min(how.max_new_tokens, left), temperature=how.temperature,
        top_p=how.top_p, top_k=how.top_k, seed=how.seed,
    )  # fmt: skip
    advice = "use a shorter prompt, fewer --max-new-tokens, or --precision bf16"
    with explained(memory=advice, worker=advice):
        opened.model.to(device)
        started = time.perf_counter()
        found = generate_text(
            opened.model, opened.tokenizer, ids=ids, sampling=sampling,
            listener=listener or (lambda text: None),
        )  # fmt: skip
    return GenerateReport(
        prompt=prompt, text=found.text, tokens=found.num_tokens,
        seconds=time.perf_counter() - started, prompt_tokens=len(ids), template=template,
        stopped="end" if found.ended else "length",
        notes=(*opened.notes, *told, *_shortage(opened, ids, left, how.max_new_tokens)),
    )  # fmt: skip


def _template(
    opened: OpenedLanguageModel, how: "GenerateOptions"
) -> tuple[Chosen, tuple[str, ...]]:
    """How the prompt is written, and what is to be told about it."""
    if how.template != "auto" or opened.template is None:
        return choose_template(opened.tokenizer, how.template, otherwise="none"), ()
    chosen = choose_template(opened.tokenizer, opened.template, otherwise="none")
    told = f"the prompt's template is {chosen}, as in training; --template chooses another"
    return chosen, (told,)


def _shortage(
    opened: OpenedLanguageModel, ids: list[int], left: int, wanted: int
) -> tuple[str, ...]:
    """A note, where the context ends before as many tokens as were wanted."""
    if left >= wanted:
        return ()
    return (
        f"the context has room for {left} new tokens, not for {wanted}: "
        f"{opened.num_positions} without the prompt's {len(ids)}",
    )


def _room(opened: OpenedLanguageModel, ids: list[int]) -> int:
    """New tokens that the model has positions for.

    Raises:
        OptionError: not even one.
        ArchitectureMismatch: a token of the prompt that the embedding has no row for.
    """
    check_ids(opened.tokenizer, ids, opened.num_embeddings, "the prompt")
    left = opened.num_positions - len(ids)
    if left < 1:
        raise OptionError(
            f"the prompt has {len(ids)} tokens, but the model's context has "
            f"{opened.num_positions}, and one at least has to be left for the answer",
            hint="shorten the prompt",
        )
    return left

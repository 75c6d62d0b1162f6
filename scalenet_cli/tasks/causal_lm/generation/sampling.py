"""Text that a model writes after a prompt, handed out as soon as it is certain."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from scalenet_cli.errors import CheckpointUnreadable, LossNotFinite
from scalenet_cli.tasks.causal_lm.generation.streaming import TextStream


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen: the most probable one at a temperature of 0."""

    max_new_tokens: int
    temperature: float
    top_p: float | None
    top_k: int | None
    seed: int


@dataclass(frozen=True, slots=True)
class Generated:
    """New text without special tokens, its tokens, and whether it ended before all were used."""

    text: str
    num_tokens: int
    ended: bool


def generate_text(
    model: Any,
    tokenizer: Any,
    ids: list[int],
    sampling: Sampling,
    listener: Callable[[str], None],
) -> Generated:
    """The model's own ``generate``, with its cache, from one prompt.

    The random state of the process is left as it was.

    Raises:
        LossNotFinite: the model answers NaN or infinity.
        CheckpointUnreadable: transformers refuses the source's generation config.
    """
    inputs = torch.tensor([ids], device=model.device)
    ends = _ends(model, tokenizer)
    stream = TextStream(tokenizer, listener)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.inference_mode(), _refusing():
        torch.manual_seed(sampling.seed)
        found = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            logits_processor=[_finite],
            tokenizer=tokenizer,  # for the config's stop_strings
            streamer=stream,
            **_settings(sampling, ends),
        )
    new = found[0, len(ids) :].tolist()
    ended = len(new) < sampling.max_new_tokens or new[-1] in ends
    return Generated(stream.text, len(new), ended)


def _settings(sampling: Sampling, ends: list[int]) -> dict[str, Any]:
    """What is not the source's generation config's to say, such as a repetition penalty is."""
    sampled = sampling.temperature > 0
    return {
        "max_new_tokens": sampling.max_new_tokens,
        "max_length": None,
        "num_beams": 1,  # text of several beams cannot be handed out before its end
        "num_return_sequences": 1,
        "do_sample": sampled,
        "temperature": sampling.temperature if sampled else None,
        "top_p": (sampling.top_p or 1.0) if sampled else None,
        "top_k": (sampling.top_k or 0) if sampled else None,
        "eos_token_id": ends or None,
        "pad_token_id": ends[0] if ends else 0,
        "return_dict_in_generate": False,
        "remove_invalid_values": False,  # would hide what is to be noticed
    }


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except UnicodeError:  # the listener's, which could not write the text
        raise
    except (ValueError, TypeError) as error:
        raise CheckpointUnreadable(
            f"generation_config.json cannot be used: {str(error)[:300]}",
            hint="mend that file in the source folder, and expand again",
        ) from None


def _finite(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """The scores as they are, once they are known to be numbers.

    It waits for the device, which the token's way to the streamer does as well; drawing from NaN
    would end a CUDA process for good.

    Raises:
        LossNotFinite: the model answers NaN or infinity.
        ValueError: the generation config rules out every token.
    """
    # NaN and infinity reach this sum through all masks of the config; the -inf of a mask does not.
    total = scores.logsumexp(-1).item()
    if total == -math.inf:
        raise ValueError("it rules out every token")
    if not math.isfinite(total):
        raise LossNotFinite(
            "the model answers NaN or infinity",
            hint="use --precision fp32; if that answers the same, the weights are damaged",
        )
    return scores


def _ends(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end a text: the generation config's, or else the tokenizer's."""
    known = model.generation_config.eos_token_id
    known = tokenizer.eos_token_id if known is None else known
    if known is None:
        return []
    return list(known) if isinstance(known, list) else [known]

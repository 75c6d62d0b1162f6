"""What several commands take: how to read a source, and thresholds."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from scalenet_cli.errors import OptionError, PlanError, ThresholdMissed

_MAX_VALUE_LENGTH: Final = 1000
_UNITS: Final = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How to read a source whose files do not say everything.

    ``model_kwargs`` are timm's own argument names, timm's preprocessing names (``mean``, ``std``,
    ``interpolation``, ``crop_pct``, ``crop_mode``, ``input_size``) and ``norm_eps``.
    """

    arch: str | None = None
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)
    random_weights: bool = False
    seed: int = 0

    @property
    def random_seed(self) -> int | None:
        """The seed of random weights, where they are asked for."""
        return self.seed if self.random_weights else None


def parse_model_kwargs(items: Sequence[str]) -> dict[str, Any]:
    """``key=value`` items with YAML values; commas make a list.

    >>> parse_model_kwargs(["num_heads=4", "mean=0,0,0", "norm_eps=1e-5"])
    {'num_heads': 4, 'mean': [0, 0, 0], 'norm_eps': 1e-05}

    Raises:
        OptionError: not of that form, or a key given twice.
    """
    arguments: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not equals or not key.isidentifier():
            raise OptionError(
                f"--model-kwargs {item} is not of the form key=value",
                hint="for example --model-kwargs num_heads=4",
            )
        if key in arguments:
            raise OptionError(f"--model-kwargs gives {key} twice")
        arguments[key] = _value(item, text)
    return arguments


def _value(item: str, text: str) -> Any:
    # Not at the top: `scalenet --help` reads this module, and needs no YAML.
    from scalenet_cli.plan.yaml_text import parse_value

    try:
        if len(text) > _MAX_VALUE_LENGTH:
            raise ValueError
        return parse_value(f"[{text}]" if "," in text and text[0] != "[" else text, item)
    except (PlanError, ValueError):
        raise OptionError(f"the value of --model-kwargs {item} cannot be read") from None


def parse_numbers(text: str, option: str) -> tuple[float, ...]:
    """Numbers with commas between them.

    >>> parse_numbers("0.5,0.5,0.5", "--mean")
    (0.5, 0.5, 0.5)

    Raises:
        OptionError: not such a list.
    """
    try:
        if not text.isascii() or "_" in text or len(text) > _MAX_VALUE_LENGTH:
            raise ValueError
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise OptionError(
            f"{option} {text} is no list of numbers", hint=f"for example {option} 0.5,0.5,0.5"
        ) from None


def parse_amount(text: str, option: str) -> int:
    """A number with an optional unit: 90M, 1.5G, 4000.

    >>> parse_amount("1.5M", "--max-params")
    1500000

    Raises:
        OptionError: not such a number.
    """
    match = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([KMGBT]?)", text.strip().upper())
    if match is None:
        raise OptionError(f"{option} {text} is no amount", hint="for example 90M, 1.5G or 4000")
    return round(float(match.group(1)) * _UNITS[match.group(2)])


def require_at_most(found: int, limit: str | None, option: str, noun: str) -> None:
    """The threshold holds, where one is given.

    Raises:
        ThresholdMissed: it does not.
    """
    if limit is None:
        return
    allowed = parse_amount(limit, option)
    if found > allowed:
        raise ThresholdMissed(f"{found:,} {noun}, but {option} allows {allowed:,}")

"""JSON from strangers: strict UTF-8, no repeated keys, no NaN."""

import json
from collections import Counter
from typing import Any


def parse_json(data: bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: not JSON, nested too deeply, or with a repeated key, NaN or half a character.
    """
    try:
        # Decoded here: json.loads would accept UTF-16 as well.
        content = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        repeated = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {repeated[:80]!r} stands twice")
    for key in content:
        key.encode()  # half of a surrogate pair is no character: UnicodeEncodeError, a ValueError
    return content


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")

"""Amounts as people read them."""

from typing import Final

_UNITS: Final = ("", "K", "M", "G", "T", "P", "E", "Z")


def amount(number: float) -> str:
    """Four digits and a unit.

    >>> amount(2_478_000_000), amount(950)
    ('2.478 G', '950')
    """
    order = 0
    while number >= 1000 and order + 1 < len(_UNITS):
        number, order = number / 1000, order + 1
    return f"{number:.4g} {_UNITS[order]}".strip()

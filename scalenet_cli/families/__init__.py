"""The table of families. A family's module is imported on first use: it may bring timm along.

It imports without the package of an extra; what needs one, such as ``build``, imports it itself.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Final, cast

from scalenet_cli.errors import MissingExtra, UnknownArchitecture, install_hint
from scalenet_cli.families.base import Family

FAMILIES: Final[Mapping[str, str]] = {
    "vit": "scalenet_cli.families.vit:VIT",
    "swin": "scalenet_cli.families.swin:SWIN",
    "llama": "scalenet_cli.families.llama:LLAMA",
}


def family(name: str) -> Family:
    """The family of that name.

    Raises:
        UnknownArchitecture: no such family.
        MissingExtra: the library it stands on is not installed.
    """
    if not isinstance(name, str) or name not in FAMILIES:
        raise UnknownArchitecture(
            f"no family is called {name}", hint=f"families: {', '.join(FAMILIES)}"
        )
    module, attribute = FAMILIES[name].split(":")
    try:
        return cast(Family, getattr(import_module(module), attribute))
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"the {name} family needs the package {error.name}",
            hint=install_hint("language"),
        ) from None


def families_from_the_end() -> Iterator[Family]:
    """Every family, the last of the table first.

    Each is imported when its turn comes, so that what reads only a config.json stops before timm.
    """
    yield from map(family, reversed([*FAMILIES]))

"""Whether the classes of data are those of a model, as far as their names tell."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, final

from scalenet_cli.errors import shown

# How WordNet, and so ImageNet, numbers its classes.
_SYNSET: Final = re.compile(r"n\d{8}")
_MAX_NAME: Final = 40
_MAX_DIGITS: Final = 19

# same: every class has its name's output. mapped: a class map says which. assumed: names do not
# tell. moved: a class has another output. mixed: some classes are others. other: all are.
Case = Literal["same", "mapped", "assumed", "moved", "mixed", "other"]


@final
@dataclass(frozen=True, slots=True)
class KnownClasses:
    """The output of every class of a model by name; empty where nobody recorded names.

    ``guessed`` is timm's name of a part of ImageNet that has as many classes as the model has
    outputs: then these are the classes of most such models, but nobody said so.
    """

    names: Mapping[str, int] = field(default_factory=dict)
    guessed: str = ""


@final
@dataclass(frozen=True, slots=True)
class ClassMatch:
    """How the classes of data and model go together, and that as a clause for a message."""

    case: Case
    text: str


def listed_classes(names: Any, num_outputs: int) -> KnownClasses:
    """The classes that a list has, in the order of the outputs; none where it is no such list."""
    if not isinstance(names, list | tuple) or len(names) != num_outputs:
        return KnownClasses()
    known = {name: output for output, name in enumerate(names) if isinstance(name, str)}
    return KnownClasses(known) if len(known) == num_outputs else KnownClasses()


def guessed_classes(num_outputs: int) -> KnownClasses:
    """ImageNet's classes, where a part of it has as many."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": num_outputs})
    if subset is None:
        return KnownClasses()
    synsets = ImageNetInfo(subset).label_names()
    return KnownClasses({name: output for output, name in enumerate(synsets)}, subset)


def match_classes(known: KnownClasses, found: Mapping[str, int], *, mapped: bool) -> ClassMatch:
    """Compares the names of a model's classes with those of data, of which there are as many.

    ``mapped`` data have their targets from a class map: whoever gives one knows the outputs.
    """
    moved = _moved(known.names, found)
    if mapped:
        if moved and not known.guessed:
            return ClassMatch("moved", moved)
        return ClassMatch("mapped", "the class map says which output each class has")
    if not found:
        text = "the data have no class names, so that target N is taken for output N of the model"
        return ClassMatch("assumed", text)
    if not known.names:
        return ClassMatch("assumed", f"the model has no class names, and {_in_order(found)}")
    if _plain(known.names) == _plain(found):
        return ClassMatch("same", f"the data's {len(found):,} classes are the model's")
    numbers = _are_numbers(found)
    if numbers and not _are_numbers(known.names) and _sorted_as_text(found):
        text = f"{_sorted_as_text(found)}, and the model's classes have other names"
        return ClassMatch("moved", text)
    # A number names an output at best, and whoever has ImageNet may call its folders otherwise.
    untold = known.guessed and not all(map(_SYNSET.fullmatch, found))
    if untold or numbers != _are_numbers(known.names):
        text = f"the model's classes are called otherwise ({_some(known.names)}), and "
        return ClassMatch("assumed", f"{text}{_in_order(found)}")
    if moved and known.names.keys() == found.keys():
        return ClassMatch("moved", moved)
    return _others(known.names, found)


def _others(known: Mapping[str, int], found: Mapping[str, int]) -> ClassMatch:
    """Names that are not all the same: some of them, or none."""
    lacking = [name for name in known if name not in found]
    new = [name for name in found if name not in known]
    text = (
        f"{len(lacking):,} of the model's {len(known):,} classes are not in the data, such as "
        f"{shown(lacking[0], _MAX_NAME)}; the data have {_some(new)}"
    )
    alike = _plain(known).keys() & _plain(found).keys()
    return ClassMatch("mixed" if alike else "other", text)


def _moved(known: Mapping[str, int], found: Mapping[str, int]) -> str:
    """The first class that has another output; nothing where none has."""
    for name, target in found.items():
        if known.get(name, target) != target:
            there = f"{target} in the data, but {known[name]} in the model"
            return f"the class {shown(name, _MAX_NAME)} is {there}"
    return ""


def _in_order(found: Mapping[str, int]) -> str:
    text = f"the data's ({_some(found)}) are taken for its outputs in their order"
    order = _sorted_as_text(found)
    return f"{text}; {order}" if order else text


def _sorted_as_text(found: Mapping[str, int]) -> str:
    """Says so of numbers that are not their targets: 10 comes before 2."""
    if not _are_numbers(found) or sorted(map(int, found)) != list(range(len(found))):
        return ""
    wrong = next((name for name, target in found.items() if int(name) != target), None)
    return "" if wrong is None else f"class {wrong} is target {found[wrong]}, sorted as text"


def _are_numbers(names: Mapping[str, int]) -> bool:
    # Longer ones are no outputs, and thousands of digits are more than int() takes.
    return all(name.isascii() and name.isdecimal() and len(name) < _MAX_DIGITS for name in names)


def _plain(names: Mapping[str, int]) -> dict[str, int]:
    """Names without case, spaces and signs, and numbers without zeros before them."""
    if _are_numbers(names):
        return {str(int(name)): target for name, target in names.items()}
    plain = {"".join(c for c in n.casefold() if c.isalnum()): at for n, at in names.items()}
    return plain if len(plain) == len(names) else dict(names)


def _some(names: Mapping[str, int] | Sequence[str]) -> str:
    few = [shown(name, _MAX_NAME) for name in list(names)[:3]]
    return ", ".join(few) + (", ..." if len(names) > len(few) else "")

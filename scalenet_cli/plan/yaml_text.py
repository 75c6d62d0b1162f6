"""YAML as data plus the line of every entry, with limits: it may come from a stranger.

All YAML that people write is read here, that of flags included: 1e-5 is a number everywhere.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import yaml

from scalenet_cli.errors import PlanErrors, PlanSyntax, YamlPath

MAX_BYTES: Final = 256 * 1024
MAX_NODES: Final = 20_000
MAX_NESTING: Final = 24
MAX_NUMBER_LENGTH: Final = 200
_FLOAT: Final = "tag:yaml.org,2002:float"
# PyYAML follows YAML 1.1, in which 1e-5 is a text: a float has a point, its exponent a sign.
_EXPONENT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the floats of YAML 1.2 and JSON."""


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that the loader would read as floats."""


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(_FLOAT, _EXPONENT, list("-+.0123456789"))


@dataclass(frozen=True, slots=True)
class YamlText:
    """One parsed document: its name for messages, its data and its nodes."""

    name: str
    data: Any
    root: yaml.Node

    def where(self, path: YamlPath) -> str:
        """``file:line  yaml.path`` of an entry, or of the deepest part of it that exists."""
        line = _line(self.root, path)
        spelled = spell(path)
        return f"{self.name}:{line}" + (f"  {spelled}" if spelled else "")


def spell(path: YamlPath) -> str:
    """A YAML path as people write it.

    >>> spell(("shared", "scope", "stages", 0))
    'shared.scope.stages[0]'
    """
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def parse_yaml(text: str, name: str) -> YamlText:
    """Data and nodes of one document.

    Raises:
        PlanSyntax: not YAML, too large, too deep, with a tag that builds objects, or empty.
        PlanErrors: every key that stands twice in one mapping.
    """
    if len(text.encode()) > MAX_BYTES:
        raise PlanSyntax(f"the file is larger than {MAX_BYTES // 1024} KiB", where=name)
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            raise PlanSyntax("the file is empty", where=name)
        repeated = sorted(_check(root, name), key=lambda found: found[0])
        if repeated:
            raise PlanErrors(tuple(error for _, error in repeated))
        data = _construct(loader, root, name)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        raise PlanSyntax(f"not valid YAML: {error.problem or error.context}", where=where) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise PlanSyntax(
            f"not valid YAML: special characters are not allowed (#x{error.character:04x})",
            where=f"{name}:{line}",
        ) from None
    except RecursionError:
        raise PlanSyntax(f"nested more than {MAX_NESTING} levels deep", where=name) from None
    finally:
        if loader is not None:
            loader.dispose()
    return YamlText(name, data, root)


def parse_value(text: str, name: str) -> Any:
    """The value in a text of one line, as ``key: text`` would have it in a file.

    >>> parse_value("1e-5", "--set"), parse_value("[0.9, 0.95]", "--set"), parse_value("", "--set")
    (1e-05, [0.9, 0.95], None)

    Raises:
        PlanError: not YAML, or more than one value.
    """
    found = parse_yaml(f"value: {text}", name).data
    if found.keys() != {"value"}:  # a second line would be another entry
        raise PlanSyntax("more than one value", where=name)
    return found["value"]


def dump_yaml(data: Any) -> str:
    """Plain values as YAML that :func:`parse_yaml` reads back, in their order."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False)


def _construct(loader: yaml.SafeLoader, root: yaml.Node, name: str) -> Any:
    """The document's values; a scalar that is not what its tag says is reported at its line."""
    for node in _scalars(root):
        try:
            if not node.tag.endswith(":str") and len(node.value) > MAX_NUMBER_LENGTH:
                raise ValueError
            loader.construct_object(node)
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError):
            raise PlanSyntax(
                f"not valid YAML: {node.value[:60]!r} is no {node.tag.rpartition(':')[2]}",
                where=f"{name}:{node.start_mark.line + 1}",
            ) from None
    return loader.construct_document(root)


def _scalars(root: yaml.Node) -> Iterator[yaml.ScalarNode]:
    """Every scalar once; the tree is known to be small."""
    pending, seen = [root], set()
    while pending:
        node = pending.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            yield node
        elif isinstance(node, yaml.SequenceNode):
            pending.extend(node.value)
        elif isinstance(node, yaml.MappingNode):
            pending.extend(child for pair in node.value for child in pair)


def _check(root: yaml.Node, name: str) -> Iterator[tuple[int, PlanSyntax]]:
    """Line and error of every key that stands twice or is no text.

    Walks the tree with aliases followed, so that an alias bomb is counted, not built.
    """
    seen = 0
    pending = [(root, 0)]
    while pending:
        node, nesting = pending.pop()
        seen += 1
        where = f"{name}:{node.start_mark.line + 1}"
        if seen > MAX_NODES:
            raise PlanSyntax(f"more than {MAX_NODES} entries, aliases included", where=where)
        if nesting > MAX_NESTING:
            raise PlanSyntax(f"nested more than {MAX_NESTING} levels deep", where=where)
        if isinstance(node, yaml.SequenceNode):
            pending.extend((child, nesting + 1) for child in node.value)
        elif isinstance(node, yaml.MappingNode):
            yield from _check_keys([key for key, _ in node.value], name)
            pending.extend((child, nesting + 1) for pair in node.value for child in pair)


def _check_keys(keys: Iterable[yaml.Node], name: str) -> Iterator[tuple[int, PlanSyntax]]:
    """Line and error of every key of one mapping that stands twice or is no text."""
    lines: dict[str, int] = {}
    for key in keys:
        line = key.start_mark.line + 1
        kind = key.tag.rpartition(":")[2]
        if kind not in ("str", "merge"):
            hint = "YAML reads on, off, yes and no as booleans: put such a key in quotes"
            text = key.value if isinstance(key, yaml.ScalarNode) else "..."
            fact = f"the key `{text}` is a {kind}, not a text"
            yield line, PlanSyntax(fact, where=f"{name}:{line}", hint=hint)
        elif isinstance(key, yaml.ScalarNode):
            # PyYAML keeps the last of two equal keys without a word.
            if key.value in lines:
                fact = (
                    f"the key `{key.value}` stands twice, in line {lines[key.value]} "
                    f"and line {line}"
                )
                yield line, PlanSyntax(fact, where=f"{name}:{line}", hint="keep one of them")
            lines.setdefault(key.value, line)


def _line(node: yaml.Node, path: YamlPath) -> int:
    line = int(node.start_mark.line) + 1
    for part in path:
        child = None
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value == str(part):
                    line, child = key.start_mark.line + 1, value
        elif isinstance(node, yaml.SequenceNode) and part in range(len(node.value)):
            child = node.value[int(part)]
            line = child.start_mark.line + 1
        if child is None:
            return line
        node = child
    return line

"""YAML as data plus the line of every entry, with limits: it may come from a stranger."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import yaml

from scalenet_cli.errors import PlanErrors, PlanSyntax, YamlPath

MAX_BYTES: Final = 256 * 1024
MAX_NODES: Final = 20_000
MAX_NESTING: Final = 24


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
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            raise PlanSyntax("the file is empty", where=name)
        repeated = tuple(_check(root, name))
        if repeated:
            raise PlanErrors(repeated)
        data = loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        raise PlanSyntax(f"not valid YAML: {error.problem or error.context}", where=where) from None
    except (yaml.YAMLError, ValueError) as error:
        raise PlanSyntax(f"not valid YAML: {error}", where=name) from None
    except RecursionError:
        raise PlanSyntax(f"nested more than {MAX_NESTING} levels deep", where=name) from None
    finally:
        loader.dispose()
    return YamlText(name, data, root)


def _check(root: yaml.Node, name: str) -> Iterator[PlanSyntax]:
    """Walks the tree with aliases followed, so that an alias bomb is counted, not built."""
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
            lines: dict[str, int] = {}
            for key, value in node.value:
                line = key.start_mark.line + 1
                if isinstance(key, yaml.ScalarNode):
                    # PyYAML keeps the last of two equal keys without a word.
                    if key.value in lines:
                        yield PlanSyntax(
                            f"the key `{key.value}` stands twice, in line {lines[key.value]} and "
                            f"line {line}",
                            where=f"{name}:{line}",
                            hint="keep one of them",
                        )
                    lines.setdefault(key.value, line)
                pending.extend(((key, nesting + 1), (value, nesting + 1)))


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

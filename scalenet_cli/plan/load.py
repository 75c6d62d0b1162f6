"""A plan's text as an ExpansionPlan; every mistake is reported at once, with file and line."""

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from scalenet_cli.errors import PlanError, PlanErrors, PlanSchema, PlanUnreadable, YamlPath
from scalenet_cli.plan.recipes import Expected, Recipe, recipe_path
from scalenet_cli.plan.schema import (
    ADAPTER_PLANS,
    GROUPS,
    BlocksScope,
    ExpansionPlan,
    SharedPlan,
    SourcesMapping,
    StagesScope,
    adapter_plan_class,
)
from scalenet_cli.plan.yaml_text import MAX_BYTES, YamlText, parse_yaml, spell

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class PlanDocument:
    """A plan with the text it came from, so that later errors still know file and line."""

    plan: ExpansionPlan
    text: str
    yaml: YamlText
    recipe: Recipe | None = None

    @contextmanager
    def locating(self) -> Iterator[None]:
        """Adds file and line to every PlanError that names its YAML path."""
        try:
            yield
        except PlanErrors as errors:
            for error in errors.errors:
                self._locate(error)
            raise PlanErrors(tuple(sorted(errors.errors, key=_line_of))) from None
        except PlanError as error:
            self._locate(error)
            raise

    def _locate(self, error: PlanError) -> None:
        if error.where is None and error.field is not None:
            prefix: YamlPath = ("plan",) if self.recipe else ()
            error.where = self.yaml.where((*prefix, *error.field))


def load_plan(reference: str | Path | PlanDocument) -> PlanDocument:
    """A plan file, a recipe file, or a shipped recipe by name; a loaded plan is taken as it is.

    Raises:
        PlanError: unreadable, not YAML, not in the schema (all mistakes at once), no such recipe.
    """
    if isinstance(reference, PlanDocument):
        return reference
    reference = str(reference)
    path = Path(reference)
    text = read_text(path)
    if text is None and not path.suffix:
        path = recipe_path(reference)
        text = read_text(path)
    if text is None:
        raise PlanUnreadable(
            "there is no such plan file",
            where=reference,
            hint="`scalenet recipes` lists the plans that ship with scalenet",
        )
    return parse_plan(text, str(path))


def parse_plan(text: str, name: str = "plan") -> PlanDocument:
    """The plan or recipe in a text; ``name`` stands for the file in messages."""
    parsed = parse_yaml(text, name)
    if not isinstance(parsed.data, dict):
        raise PlanSchema(
            f"a plan is a mapping of keys to values, not {_kind(parsed.data)}",
            where=parsed.where(()),
            hint="start with `version: 1`; docs/plan-format.md has the whole schema",
        )
    if _is_recipe(parsed.data):
        recipe = validate(Recipe, parsed)
        return PlanDocument(recipe.plan, text, parsed, recipe)
    return PlanDocument(validate(ExpansionPlan, parsed), text, parsed)


def plan_from_dict(entries: Mapping[str, Any]) -> PlanDocument:
    """A plan given as Python values, with the same checks and messages as a file.

    Raises:
        PlanError: every mistake in it.
    """
    try:
        text = json.dumps(entries)
    except (TypeError, ValueError, RecursionError) as error:
        raise PlanSchema(f"the plan holds more than plain values: {error}") from None
    return parse_plan(text)


def validate(model: type[M], parsed: YamlText) -> M:
    """The YAML as an instance of a schema.

    Raises:
        PlanErrors: one error per wrong entry, in the order of the lines.
    """
    try:
        return model.model_validate(parsed.data)
    except ValidationError as failure:
        errors: dict[YamlPath, PlanError] = {}
        for detail in failure.errors(include_url=False):
            path = _yaml_path(parsed.data, detail["loc"])
            if not _is_echo(parsed.data, path, detail):
                errors.setdefault(path, _explain(model, parsed, path, dict(detail)))
    ordered = sorted(errors.values(), key=_line_of)
    raise PlanErrors(tuple(ordered)) from None


def read_text(path: Path) -> str | None:
    """The text; None where there is no such file. It may be a pipe, so its size is not asked."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise PlanUnreadable(
                f"the plan is larger than {MAX_BYTES // 1024} KiB", where=str(path)
            )
        return data.decode("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise PlanUnreadable(f"the plan cannot be read: {error}", where=str(path)) from None


def _yaml_path(whole: Any, loc: tuple[str | int, ...]) -> YamlPath:
    """Pydantic's location without the union tags that it puts between the keys."""
    path: list[str | int] = []
    data = whole
    for order, part in enumerate(loc):
        keys: Collection[object] = ()
        if isinstance(data, dict):
            keys = data.keys()
        elif isinstance(data, list):
            keys = range(len(data))
        if part in keys:
            path.append(part)
            data = data[part]
        elif order == len(loc) - 1 and isinstance(data, dict):
            path.append(part)
    return tuple(path)


def _explain(
    model: type[BaseModel], parsed: YamlText, path: YamlPath, detail: dict[str, Any]
) -> PlanSchema:
    """One pydantic error in our words, with the nearest valid name."""
    kind, context = detail["type"], detail.get("ctx", {})
    where = parsed.where(path)
    given = detail.get("input")
    if kind == "extra_forbidden":
        valid = _valid_keys(model, parsed.data, path[:-1])
        if path[-1] in valid:
            hint = f"give one of {' and '.join(valid)}"
            return PlanSchema(f"`{path[-1]}` cannot stand here", where=where, hint=hint)
        return PlanSchema(
            f"unknown key `{path[-1]}`", where=where, hint=_nearest(str(path[-1]), valid, "key")
        )
    if kind == "too_short":
        return PlanSchema(f"{spell(path)} is empty", where=where)
    if kind == "missing":
        at_top = path[:-1] == (("plan",) if _is_recipe(parsed.data) else ())
        needed = _NEEDED if at_top else None
        return PlanSchema(f"the key `{path[-1]}` is missing", where=where, hint=needed)
    if kind == "literal_error":
        # Of an object's keys, pydantic says "[key]" after the key itself.
        noun = "key" if detail["loc"][-1] == "[key]" else "value"
        valid = re.findall(r"'([^']*)'", str(context["expected"])) or [str(context["expected"])]
        if path[-2:] == ("adapter", "type"):
            valid = list(ADAPTER_PLANS)
        if path[-1] == "train":
            valid = ["all", *(f"[{group}]" for group in GROUPS)]
        said = f"unknown key `{given}`" if noun == "key" else f"{spell(path)} is {given!r}"
        return PlanSchema(said, where=where, hint=_nearest(str(given), valid, noun))
    message = re.sub(r"^(Value error|Assertion failed), ", "", detail["msg"])
    message = message.replace("Input should be", "this should be")
    shown = f" (got {given!r})" if isinstance(given, str | int | float) else ""
    return PlanSchema(f"{message[:1].lower()}{message[1:]}{shown}", where=where)


_LISTED = 16  # names beside the nearest one
_NEEDED = "a plan needs `version: 1`, `mapping` and one of `factor` and `depth`"


def _nearest(given: str, valid: list[str], noun: str) -> str:
    close = get_close_matches(given, valid, n=1, cutoff=0.5)
    listed = f"valid {noun}s here: {', '.join(valid)}"
    if not close:
        return listed
    # A recipe has some fifty keys; they would bury the one that is meant.
    return f"did you mean `{close[0]}`?" + (f" {listed}" if len(valid) <= _LISTED else "")


def _is_echo(data: Any, path: YamlPath, detail: Mapping[str, Any]) -> bool:
    """An error that only follows from another one, which is reported where it was made."""
    if detail["type"] == "too_short":
        # pydantic counts the valid items of a list whose items are wrong.
        return bool(detail["input"])
    if detail["type"] != "missing":
        return False
    for part in path[:-1]:
        data = data[part]
    return bool(get_close_matches(str(path[-1]), map(str, data), n=1, cutoff=0.7))


def _is_recipe(data: Any) -> bool:
    return isinstance(data, dict) and "plan" in data


def _adapter_model(data: Any) -> type[BaseModel]:
    return adapter_plan_class(data.get("type") if isinstance(data, dict) else None)


def _valid_keys(model: type[BaseModel], data: Any, path: YamlPath) -> list[str]:
    if model not in (ExpansionPlan, Recipe):
        return list(model.model_fields)
    models: list[tuple[YamlPath, Callable[[Any], list[type[BaseModel]]]]] = [
        (("shared",), lambda _: [SharedPlan]),
        (("shared", "scope"), lambda _: [StagesScope, BlocksScope]),
        (("mapping",), lambda _: [SourcesMapping]),
        (("adapter",), lambda entry: [_adapter_model(entry)]),
        (("expect",), lambda _: [Expected]),
    ]
    in_recipe = _is_recipe(data)
    for part in path:
        data = data[part]
    if in_recipe and not path:
        return list(Recipe.model_fields)
    inner = path[1:] if in_recipe and path[0] == "plan" else path
    for at, choose in models:
        if inner == at:
            return [key for model in choose(data) for key in model.model_fields]
    return list(ExpansionPlan.model_fields)


def _line_of(error: PlanError) -> int:
    found = re.search(r":(\d+)", error.where or "")
    return int(found.group(1)) if found else 0


def _kind(data: object) -> str:
    if isinstance(data, list):
        return "a list"
    return "a text" if isinstance(data, str) else f"a {type(data).__name__}"

"""The Markdown that pages of this folder take from the code: ``cog -r docs/*.md`` renews it.

Every function returns a text with an empty line before and after, for ``cog.out``. Nothing here is
imported by scalenet itself.
"""

import ast
import contextlib
import inspect
import os
import re
import shlex
import tempfile
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from scalenet_cli.plan.schema import ADAPTER_PLANS, AdapterSettings

# Fields whose class does not describe them. A field without any text fails here.
MEANINGS: Final[Mapping[str, str]] = {
    "AdapterPlan.type": "what kind",
    "Recipe.plan": "the plan",
    "Recipe.expect": "the numbers that the plan must give; a test compares them",
    "Recipe.note": "free text",
    "Manifest.format": "version of this format",
    "Manifest.tool": "`scalenet-cli` and the version that wrote the bundle",
    "Manifest.source": "what the bundle was made from",
    "Manifest.plan": "the plan with all defaults written out",
    "Manifest.seed": "the seed of everything random",
    "Manifest.layout": "one entry per stage",
    "Manifest.trained": "what training did; null where nothing was trained",
    "Manifest.files": "file name -> entry, for every other file of the bundle",
    "Manifest.parameters": "what `count-params` prints",
    "Manifest.flops": "what `flops` prints for the default input size",
    "SourceEntry.reference": "file or folder name without its path, or `timm:NAME`, or `hf:REPO`",
    "SourceEntry.kind": "what the tensors were read from",
    "SourceEntry.family": "key in the table of families",
    "SourceEntry.architecture": "timm's name, or the config's `model_type`",
    "SourceEntry.arguments": "timm's keyword arguments, or `config.json` without entries that name "
    "code",
    "SourceEntry.preprocessing": "how images are prepared, with timm's names, and "
    "`label_names` where the source names its classes",
    "StageEntry.path": "module path of the blocks",
    "StageEntry.depth": "number of pretrained blocks",
    "StageEntry.sources": "the source block of every position",
    "StageEntry.scope": "the source blocks that the plan reuses",
    "FileEntry.role": "`base`: the source's tensors; `instances`: what instances own; `carried`: "
    "everything else",
    "FileEntry.num_bytes": "size of the file",
    "FileEntry.sha256": "of the whole file; for `carried` files only",
    "FileEntry.tensors": "key -> entry; empty for `carried` files",
    "TensorEntry.dtype": "safetensors' name of the type, such as `F32` or `BF16`",
    "TensorEntry.shape": "sizes",
    "TensorEntry.sha256": "of the tensor's raw little-endian bytes",
    "ParameterReport.executed_groups": "executed, by group",
    "ParameterReport.trainable_groups": "trainable, by group",
    "ParameterReport.instances": "one row per executed block",
    "InstanceParameters.stage": "0-based",
    "InstanceParameters.position": "place in the scaled stage",
    "InstanceParameters.source": "pretrained block that is executed",
    "InstanceParameters.ordinal": "0 is the pretrained occurrence",
    "FlopReport.unit": "of `input_size`",
    "FlopReport.macs": "multiply-adds, `flops` / 2",
    "FlopReport.flops": "total",
    "FlopReport.outside_flops": "the same in FLOPs",
    "FlopReport.instances": "one row per executed block",
    "InstanceFlops.stage": "0-based",
    "InstanceFlops.position": "place in the scaled stage",
    "InstanceFlops.source": "pretrained block that is executed",
    "InstanceFlops.ordinal": "0 is the pretrained occurrence",
    "InstanceFlops.macs": "multiply-adds",
    "InstanceFlops.flops": "`macs` * 2",
    "BenchReport.target": "as given",
    "BenchReport.family": "key in the table of families",
    "BenchReport.architecture": "timm's name, or the config's `model_type`",
    "BenchReport.device": "where the models ran",
    "BenchReport.torch_version": "of PyTorch",
    "BenchReport.precision": "of autocast",
    "BenchReport.compiled": "with `--compile`",
    "BenchReport.channels_last": "with `--channels-last`",
    "BenchReport.batch_size": "samples of a pass",
    "BenchReport.unit": "of `input_size`",
    "BenchReport.seed": "of weights and batch",
    "BenchReport.notes": "which variants are left out, and how the target was read",
    "PassReport.variants": "`base`, `scaled`, `floor`, `untied`, in this order",
    "VariantReport.name": "which variant",
    "VariantReport.memory": "bytes",
    "RatioReport.variant": "what is divided",
    "RatioReport.reference": "by what",
    "Spread.median": "the middle one",
    "Spread.min": "the least",
    "Spread.max": "the most",
}


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |"
        for line in (columns, ["---"] * len(columns), *rows)
    ]
    return _block("\n".join(lines))


def _block(text: str) -> str:
    return f"\n{text}\n\n"


# The layers


def layers() -> str:
    """A picture of the layers: a row for each of the contract that import-linter checks."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    (contract,) = project["tool"]["importlinter"]["contracts"]
    rows = [[name.strip() for name in layer.split("|")] for layer in contract["layers"]]
    width = 59  # and a bar: divides into one, two and three boxes
    bars = [[(width + 1) * at // len(names) for at in range(len(names) + 1)] for names in rows]
    lines = []
    for names, own, above in zip(rows, bars, [[], *bars], strict=False):
        lines.append(_edge(width, {*own, *above}))
        sizes = [end - start - 1 for start, end in pairwise(own)]
        cells = [name.center(size) for name, size in zip(names, sizes, strict=True)]
        lines.append(f"|{'|'.join(cells)}|")
    drawn = "\n".join([*lines, _edge(width, {*bars[-1]})])
    return _block(f"```text\n{drawn}\n```")


def _edge(width: int, corners: Collection[int]) -> str:
    return "".join("+" if at in corners else "-" for at in range(width + 2))


# The plan


def plan_keys() -> str:
    """Every key of a plan."""
    from scalenet_cli.plan.schema import ExpansionPlan

    return table(("key", "values", "default", "meaning"), _plan_rows(ExpansionPlan, ""))


def recipe_keys() -> str:
    """Every key of a recipe but those of its plan."""
    from scalenet_cli.plan.recipes import Expected, Recipe

    rows = [*_field_rows(Recipe, ""), *_field_rows(Expected, "expect.")]
    return table(("key", "values", "default", "meaning"), rows)


def training_keys(task: str) -> str:
    """The keys of all training recipes, or a task's own, with their flags of ``finetune``."""
    from scalenet_cli.plan.training import TrainingRecipe
    from scalenet_cli.tasks.recipes import recipe_table

    common = TrainingRecipe.model_fields
    recipe = TrainingRecipe if task == "common" else recipe_table()[task]
    own = [
        name
        for name, field in recipe.model_fields.items()
        if task == "common" or name not in common or field.default != common[name].default
    ]
    flags = {p.name.removesuffix("_blocks"): p.opts[0] for p in commands()["finetune"].params}
    rows = []
    for name in own:
        key, values, default, meaning = _row(recipe, name, recipe.model_fields[name], "")
        flag = f"`{flags[name]}`" if name in flags else "`--set`"
        rows.append((key, "-" if name in ("version", "task") else flag, values, default, meaning))
    return table(("key", "flag", "values", "default", "meaning"), rows)


def _plan_rows(model: type[BaseModel], prefix: str) -> Iterator[Sequence[str]]:
    for name, field in model.model_fields.items():
        section = _models(field.annotation)
        if section and section == _members(field.annotation):
            meaning = _meaning(model, name, field)
            yield f"`{prefix}{name}`", "the keys below", "the defaults below", meaning
            yield from _section_rows(section, f"{prefix}{name}.")
            continue
        yield _row(model, name, field, prefix)
        for inner in section:
            yield from _field_rows(inner, f"{prefix}{name}.")


def _section_rows(models: Sequence[type[BaseModel]], prefix: str) -> Iterator[Sequence[str]]:
    """The keys of a mapping; where its type decides which keys there are, that is said."""
    if len(models) == 1:
        yield from _plan_rows(models[0], prefix)
        return
    kinds = {model: get_args(model.model_fields["type"].annotation)[0] for model in models}
    names = dict.fromkeys(name for model in models for name in model.model_fields)
    listed = ", ".join(f"`{kind}`" for kind in kinds.values())
    default = models[0].model_fields["type"].default
    yield f"`{prefix}type`", listed, f"`{default}`", MEANINGS["AdapterPlan.type"]
    for name in names:
        owners = [model for model in models if name in model.model_fields]
        if name == "type":
            continue
        key, values, default, meaning = _row(owners[0], name, owners[0].model_fields[name], prefix)
        only = " and ".join(f"`{kinds[owner]}`" for owner in owners)
        yield key, values, default, f"{meaning}; only with {only}"


def _field_rows(model: type[BaseModel], prefix: str) -> Iterator[Sequence[str]]:
    for name, field in model.model_fields.items():
        yield _row(model, name, field, prefix)


def _row(
    model: type[BaseModel], name: str, field: FieldInfo, prefix: str
) -> tuple[str, str, str, str]:
    meaning = _meaning(model, name, field)
    if field.is_required():
        default = "required"
    elif field.default is None or field.default is PydanticUndefined:
        default = "by the model" if "by default" in meaning else "-"
    else:
        default = f"`{_shown(field.default)}`"
    return f"`{prefix}{name}`", _values(field.annotation, field.metadata), default, meaning


def _shown(value: object) -> str:
    """A default as YAML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_shown, value))}]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _meaning(model: type[BaseModel], name: str, field: FieldInfo) -> str:
    return field.description or MEANINGS[f"{model.__name__}.{name}"]


def _members(annotation: Any) -> list[Any]:
    """The alternatives of a type, without None and without Annotated's extras."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _members(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [m for arg in get_args(annotation) for m in _members(arg) if m is not NoneType]
    if annotation is AdapterSettings:
        return [plan for plan in ADAPTER_PLANS.values() if issubclass(plan, AdapterSettings)]
    return [annotation]


def _models(annotation: Any) -> list[type[BaseModel]]:
    return [m for m in _members(annotation) if inspect.isclass(m) and issubclass(m, BaseModel)]


def _values(annotation: Any, metadata: Sequence[Any] = (), *, plural: bool = False) -> str:
    """A type in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        # Inside a union pydantic leaves a Field's bounds where they were written.
        own = [found for item in arguments[1:] for found in getattr(item, "metadata", [item])]
        return _values(arguments[0], [*own, *metadata], plural=plural)
    if origin in (Union, UnionType):
        parts = [_values(a, metadata, plural=plural) for a in arguments if a is not NoneType]
        return (" or " if plural else ", ").join(parts)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is tuple and arguments[-1] is not Ellipsis:
        return f"list of {len(arguments)} {_values(arguments[0], plural=True)}"
    if origin is tuple:
        return f"list{'s' * plural} of {_values(arguments[0], plural=True)}"
    if origin is dict:
        return f"object of {_values(arguments[1], plural=True)}"
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        keys = ", ".join(f"{key}: .." for key in annotation.model_fields)
        short = len(annotation.model_fields) == 1
        return f"`{{{keys}}}`" if short else f"`{annotation.__name__}`"
    words = {int: "whole number", float: "number", str: "text", bool: "yes or no", Any: "value"}
    return words[annotation] + "s" * plural + _bounds(metadata)


def _bounds(metadata: Sequence[Any]) -> str:
    found = []
    for signs in ({"gt": ">", "ge": ">="}, {"lt": "<", "le": "<="}):
        bounds = [
            f"{sign} {getattr(item, name)}"
            for name, sign in signs.items()
            for item in metadata
            if getattr(item, name, None) is not None
        ]
        found += bounds[:1]  # the strict one, where there are both
    return " " + ", ".join(found) if found else ""


def layouts(*rows: tuple[str, Sequence[int]]) -> str:
    """What plans make of stages with so many blocks each: the source of every position."""
    from scalenet_cli.plan.layout import StageShape
    from scalenet_cli.plan.load import parse_plan
    from scalenet_cli.plan.resolve import resolve_layout

    shown = []
    for text, depths in rows:
        keys = text.replace("; ", "\n")
        document = parse_plan(f"version: 1\n{keys}\n")
        shapes = [StageShape(str(index), depth, 1) for index, depth in enumerate(depths)]
        layout = resolve_layout(document.plan, shapes)
        stages = [" ".join(str(slot.source) for slot in stage.instances) for stage in layout.stages]
        blocks = " + ".join(str(depth) for depth in depths)
        shown.append((f"`{text}`", blocks, " / ".join(f"`{stage}`" for stage in stages)))
    return table(("plan", "blocks", "source of every position"), shown)


# Reports and the manifest


def fields(path: str) -> str:
    """The fields of one model, given as ``module:Class``."""
    module, name = path.split(":")
    model = getattr(import_module(f"scalenet_cli.{module}"), name)
    rows = [
        (f"`{key}`", _values(field.annotation, field.metadata), _meaning(model, key, field))
        for key, field in model.model_fields.items()
    ]
    return table(("field", "value", "meaning"), rows)


# Families


def families() -> str:
    """The table FAMILIES: what each family covers and what its blocks are made of."""
    from scalenet_cli.families import FAMILIES, family
    from scalenet_cli.families.decoder_configs import MODEL_TYPES
    from scalenet_cli.families.timm_family import TimmFamily

    rows = []
    for name, place in FAMILIES.items():
        known = family(name)
        if isinstance(known, TimmFamily):
            modules = [f"`{module}`" for module in known.checkpoints.modules]
            noun = "modules" if len(modules) > 1 else "module"
            covers = f"timm architectures of the {noun} {', '.join(modules)}"
        else:
            covers = f"transformers model types {', '.join(f'`{kind}`' for kind in MODEL_TYPES)}"
        rows.append((f"`{name}`", covers, f"`{place}`"))
    return table(("family", "covers", "defined in"), rows)


# One architecture that stands for each timm family, and what the plan's words mean in it.
_EXAMPLES: Final[Mapping[str, str]] = {
    "vit": "deit_tiny_patch16_224",
    "swin": "swin_tiny_patch4_window7_224",
}


def anatomies() -> str:
    """The parts of a block, for one architecture of each kind."""
    from scalenet_cli.families import FAMILIES, family
    from scalenet_cli.families.architecture import Architecture
    from scalenet_cli.families.base import Anatomy
    from scalenet_cli.families.decoder_configs import MODEL_TYPES

    assert {*_EXAMPLES, "llama"} == {*FAMILIES}, "name an example of the new family"
    found: dict[Anatomy, list[str]] = {}
    for name, architecture in _EXAMPLES.items():
        known = family(name)
        model = known.build(Architecture(name, architecture))
        block = model.get_submodule(f"{known.stages(model)[0].path}.0")
        known.prepare(block)
        found.setdefault(known.anatomy(block), []).append(f"`{name}`: `{architecture}`")
    for kind, facts in MODEL_TYPES.items():
        found.setdefault(facts.anatomy, []).append(f"`llama`: `{kind}`")

    def code(paths: Sequence[str]) -> str:
        return ", ".join(f"`{path}`" for path in paths) or "-"

    return table(
        ("block of", "`attention`", "`mlp`", "gates on", "norms", "other tied modules"),
        [
            (", ".join(names), *map(code, (a.attention, a.mlp, a.closing, a.norms, a.others)))
            for a, names in found.items()
        ],
    )


def family_protocol() -> str:
    """What a family states, from the protocol's own docstrings."""
    from scalenet_cli.families.base import BlockDescription, Family

    rows = []
    for name, member in {**vars(BlockDescription), **vars(Family)}.items():
        target = member.fget if isinstance(member, property) else member
        if name.startswith("_") or not callable(target):
            continue
        text = " ".join(inspect.cleandoc(target.__doc__ or "").split("\n\n")[0].split())
        rows.append((f"`{name}`", re.sub(r":meth:`(\w+)`", r"`\1`", text)))
    return table(("member", "what it says"), rows)


# Errors


def error_codes() -> dict[str, int]:
    """Code -> exit status, in the order of errors.py."""
    from scalenet_cli import errors

    classes = [
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and issubclass(value, errors.ScalenetError)
    ]
    return {value.code: value.exit_code for value in classes}


def error_index() -> str:
    """All codes by exit status."""
    codes = error_codes()
    rows = []
    for status in sorted(set(codes.values())):
        links = [f"[{code}](#{code})" for code, exit_code in codes.items() if exit_code == status]
        rows.append((status, ", ".join(links)))
    return table(("exit status", "codes"), rows)


# Python


def exports() -> str:
    """The public names."""
    import scalenet_cli

    return table(
        ("name", "what it is"),
        [(f"[`{name}`](#{name.lower()})", _first_line(name)) for name in scalenet_cli.__all__],
    )


def _first_line(name: str) -> str:
    import scalenet_cli

    if name == "__version__":
        return "The version, from the package's metadata."
    text = inspect.getdoc(getattr(scalenet_cli, name)) or ""
    return " ".join(text.split("\n\n")[0].replace("``", "`").split())


def signature(name: str) -> str:
    """A public function's signature as its source has it, one parameter per line if it is long."""
    import scalenet_cli

    (function,) = ast.parse(inspect.getsource(getattr(scalenet_cli, name))).body
    assert isinstance(function, ast.FunctionDef)
    assert function.returns is not None
    given = function.args
    bare = [None] * (len(given.args) - len(given.defaults))
    parameters = [*map(_parameter, given.args, [*bare, *given.defaults])]
    if given.kwonlyargs:
        parameters += ["*", *map(_parameter, given.kwonlyargs, given.kw_defaults)]
    end = f") -> {ast.unparse(function.returns)}"
    head = f"{name}({', '.join(parameters)}{end}"
    if len(head) > 90:
        head = "\n".join((f"{name}(", *(f"    {parameter}," for parameter in parameters), end))
    return _block(f"```text\n{head}\n```")


def _parameter(argument: ast.arg, default: ast.expr | None) -> str:
    return ast.unparse(argument) + (f" = {ast.unparse(default)}" if default is not None else "")


# The command line


def commands() -> Mapping[str, Any]:
    """Name -> command object of the typer application."""
    import typer

    from scalenet_cli.cli.app import app

    found: Mapping[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return found


def command_reference() -> str:
    """Every command, its arguments and options."""
    return "\n".join(_command(name, command) for name, command in commands().items())


def _command(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    usage = ["scalenet", name]
    usage += [p.metavar if p.required else f"[{p.metavar}]" for p in arguments]
    usage += [f"{p.opts[0]} {p.metavar}" for p in options if p.required]
    rows = [(f"`{p.metavar}`", _default(p), p.help) for p in arguments]
    hints = get_type_hints(inspect.unwrap(command.callback))
    placeholders = {name: _placeholder(annotation) for name, annotation in hints.items()}
    for option in options:
        spelled = ", ".join(f"`{opt}`" for opt in option.opts)
        value = "" if option.is_flag else f" `{option.metavar or placeholders[option.name]}`"
        rows.append((f"{spelled}{value}", _default(option), option.help))
    head = f"\n## scalenet {name}\n\n{command.help}\n"
    synopsis = _block(f"```text\n{' '.join(usage)} [OPTIONS]\n```")
    return head + synopsis + table(("argument or option", "default", "meaning"), rows).lstrip("\n")


def _placeholder(annotation: Any) -> str:
    """What stands for the value of an option."""
    words = {int: "INTEGER", float: "NUMBER", str: "TEXT"}
    (kind, *_) = _members(annotation)
    return "|".join(get_args(kind)) if get_origin(kind) is Literal else words.get(kind, "VALUE")


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if getattr(parameter, "is_flag", False) or parameter.default is None:
        return "-"
    return f"`{parameter.default}`"


def console(*lines: str, files: Mapping[str, str] | None = None) -> str:
    """Commands with what they print on a terminal that knows ASCII only."""
    from typer.testing import CliRunner

    from scalenet_cli.cli.app import app

    shown = ["```console"]
    with tempfile.TemporaryDirectory() as folder, _plain_terminal(), contextlib.chdir(folder):
        for name, text in (files or {}).items():
            Path(name).write_text(text, encoding="utf-8")
        for line in lines:
            result = CliRunner(charset="ascii").invoke(app, shlex.split(line)[1:])
            printed = (result.stdout + result.stderr).splitlines()
            shown += [f"$ {line}", *(row.rstrip() for row in printed)]
    return _block("\n".join([*shown, "```"]))


@contextlib.contextmanager
def _plain_terminal() -> Iterator[None]:
    """No colours, whatever the environment asks for."""
    kept = {name: os.environ.pop(name, None) for name in ("FORCE_COLOR", "TTY_COMPATIBLE")}
    try:
        yield
    finally:
        os.environ.update({name: value for name, value in kept.items() if value is not None})


# The paper


def paper_rows() -> str:
    """The recipes of the paper's tables with their exact and published counts."""
    from scalenet_cli.plan.load import load_plan
    from scalenet_cli.plan.recipes import recipe_names

    rows = []
    for name in recipe_names():
        recipe = load_plan(name).recipe
        if not name.startswith("paper/") or recipe is None or recipe.expect is None:
            continue
        expect = recipe.expect
        follows = "yes" if expect.published_follows else "**no**"
        published = f"{expect.published_millions:.2f}"
        rows.append((f"`{name}`", expect.new_blocks, f"{expect.stored:,}", published, follows))
    return table(("recipe", "new blocks", "exact", "published (M)", "follows"), rows)


# Results


def study(name: str) -> str:
    """What a study of recipes/studies came to: docs/studies/NAME.json is its results.json."""
    from scalenet_cli.study.results import StudyResults, spread_text

    path = Path(__file__).parent / "studies" / f"{name}.json"
    results = StudyResults.model_validate_json(path.read_bytes())
    rows = []
    for arm in results.arms:
        if arm.last is None:
            continue
        cost = arm.cost
        rows.append(
            (
                f"`{cost.name}`",
                spread_text(arm.before),
                spread_text(arm.last),
                f"{arm.last.min:.2f}..{arm.last.max:.2f}",
                cost.blocks,
                f"{cost.stored:,}",
                f"{cost.macs / 1e6:.2f}",
                f"{cost.total_train_flops / 1e12:.2f}",
            )
        )
    columns = (
        "arm", "before", "after", "range", "blocks", "parameters", "MACs, M", "training TFLOPs",
    )  # fmt: skip
    return table(columns, rows)

"""A study file as a Study; every mistake is reported at once, with file and line."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, final

import yaml
from pydantic import BaseModel, ValidationError

from scalenet_cli.errors import PlanError, PlanErrors, PlanSchema, PlanUnreadable, YamlPath
from scalenet_cli.plan.load import PlanDocument, load_plan, read_text, validate
from scalenet_cli.plan.load_training import load_training_recipe
from scalenet_cli.plan.recipes import recipe_path, study_names
from scalenet_cli.plan.schema import ExpansionPlan
from scalenet_cli.plan.study import ArmEntry, Study, StudyData, StudyOutline
from scalenet_cli.plan.training import Recipe, RecipeTable, TaskName
from scalenet_cli.plan.yaml_text import YamlText, dump_yaml, parse_yaml, spell

M = TypeVar("M", bound=BaseModel)
_REMOTE = ("timm:", "hf:")


@final
@dataclass(frozen=True)
class StudyDocument:
    """A study with the text it came from. ``folder`` is what its relative paths start from."""

    study: Study
    yaml: YamlText
    folder: Path

    def place(self, reference: str) -> str:
        """A path or reference of the study, as this process opens it."""
        if reference.startswith(_REMOTE):
            return reference
        return str(self.folder / reference)

    def where(self, *path: str | int) -> str:
        """``file:line  yaml.path`` of an entry."""
        return self.yaml.where(path)

    def plan(self, order: int) -> PlanDocument:
        """The plan of an arm that has one.

        Raises:
            PlanError: the file cannot be used.
        """
        entry = self.study.arms[order].plan
        assert entry is not None
        if isinstance(entry, dict):
            part = _part(self.yaml, ("arms", order, "plan"))
            plan = ExpansionPlan.model_validate(part.data)
            return PlanDocument(plan, dump_yaml(part.data), part)
        try:
            return load_plan(self._file(entry))
        except PlanUnreadable as error:
            error.hint = f"named at {self.where('arms', order, 'plan')}; `scalenet recipes` lists "
            error.hint += "the plans that ship with scalenet"
            raise

    def written_plan(self, order: int, entries: dict[str, Any]) -> PlanDocument:
        """A plan that follows from an arm without one; its mistakes are the arm's."""
        part = replace(_part(self.yaml, ("arms", order)), data=entries)
        text = dump_yaml(entries)
        return PlanDocument(ExpansionPlan.model_validate(entries), text, part)

    def recipe(self, order: int, task: TaskName, recipes: RecipeTable) -> Recipe:
        """The recipe of an arm, its settings applied; the seed is still to be set.

        Raises:
            PlanError: with the lines of the entries that are wrong.
        """
        study, arm = self.study, self.study.arms[order]
        inline = study.recipe if isinstance(study.recipe, dict) else {}
        reference = self._file(study.recipe) if isinstance(study.recipe, str) else None
        settings = {**inline, **study.settings, **arm.settings}
        places: dict[str, YamlPath] = {key: ("recipe", key) for key in inline}
        places |= {key: ("settings", key) for key in study.settings}
        places |= {key: ("arms", order, "settings", key) for key in arm.settings}
        if "seed" in settings:
            raise PlanSchema(
                "a study has `seeds`, not a seed of its recipe", where=self.where(*places["seed"])
            )
        try:
            return load_training_recipe(reference, settings, task, recipes=recipes)
        except PlanErrors as errors:
            for error in errors.errors:
                key = re.split(r"[.\[]", (error.where or "").partition("  ")[2])[0]
                if key in places:
                    error.where = self.where(*places[key])
                elif (error.where or "").startswith("a flag"):
                    # A contradiction of several entries has no key of its own.
                    error.where = self.where("arms", order)
            raise

    def _file(self, name: str) -> str:
        beside = self.folder / name
        return str(beside) if beside.exists() or beside.suffix else name

    def replaced(self, *, source: str | None, data: str | None) -> "StudyDocument":
        """With another source or data set, whose paths start from the current folder."""
        study = self.study
        if source is not None:
            shown = source if source.startswith(_REMOTE) else str(Path(source).absolute())
            study = study.model_copy(update={"source": shown})
        if data is not None:
            shown = data if data.startswith(_REMOTE) else str(Path(data).absolute())
            changed = study.data.model_copy(update={"path": shown})
            study = study.model_copy(update={"data": changed})
        return replace(self, study=study)


def load_study(reference: str | Path) -> StudyDocument:
    """A study file, or a shipped one by name, whose paths start from the current folder.

    Raises:
        PlanError: unreadable, not YAML, not in the schema (all mistakes at once), no such study.
    """
    path, folder = Path(reference), Path(reference).parent
    text = read_text(path)
    if text is None and not path.suffix:
        path, folder = recipe_path(str(reference), list(study_names())), Path()
        text = read_text(path)
    if text is None:
        raise PlanUnreadable(
            "there is no such study file",
            where=str(reference),
            hint="`scalenet recipes` lists the studies that ship with scalenet",
        )
    return parse_study(text, str(path), folder)


def parse_study(text: str, name: str = "study", folder: Path | None = None) -> StudyDocument:
    """The study in a text; ``name`` stands for the file in messages.

    Raises:
        PlanErrors: every mistake, in the order of the lines.
    """
    parsed = parse_yaml(text, name)
    if not isinstance(parsed.data, dict):
        raise PlanSchema("a study is a mapping of keys to values", where=parsed.where(()))
    mistakes: list[PlanError] = []
    _collect(StudyOutline, parsed, (), mistakes)
    data, arms = parsed.data.get("data"), parsed.data.get("arms")
    if isinstance(data, dict):
        _collect(StudyData, parsed, ("data",), mistakes)
    for order, arm in enumerate(arms if isinstance(arms, list) else ()):
        if isinstance(arm, dict):
            _collect(ArmEntry, parsed, ("arms", order), mistakes)
            if isinstance(arm.get("plan"), dict):
                _collect(ExpansionPlan, parsed, ("arms", order, "plan"), mistakes)
    if not mistakes:
        try:
            study = Study.model_validate(parsed.data)
        except ValidationError:
            study = validate(Study, parsed)  # raises it in our words
        mistakes += _arm_mistakes(study, parsed)
    if mistakes:
        raise PlanErrors(tuple(sorted(mistakes, key=_line)))
    return StudyDocument(study, parsed, folder or Path())


def _collect(
    model: type[M], parsed: YamlText, path: YamlPath, mistakes: list[PlanError]
) -> M | None:
    """A part of the study by its own schema; what is wrong in it is said with the whole path."""
    try:
        return validate(model, _part(parsed, path))
    except PlanErrors as errors:
        for error in errors.errors:
            place, _, inner = (error.where or "").partition("  ")
            whole = ".".join(filter(None, (spell(path), inner))).replace(".[", "[")
            error.where = f"{place}  {whole}" if whole else place
            if error.fact.startswith("the key `") and model is not ExpansionPlan:
                error.hint = "docs/compare.md has the whole schema"
        mistakes += errors.errors
        return None


def _part(parsed: YamlText, path: YamlPath) -> YamlText:
    """An entry as a document of its own, whose lines are still those of the file."""
    data: Any = parsed.data
    node = parsed.root
    for part in path:
        data = data[part]
        if isinstance(node, yaml.SequenceNode):
            node = node.value[int(part)]
        elif isinstance(node, yaml.MappingNode):
            # What a merge key brought in has no node here: then it is where the mapping is.
            found = [value for key, value in node.value if key.value == part]
            node = found[0] if found else node
    return YamlText(parsed.name, data, node)


def _arm_mistakes(study: Study, parsed: YamlText) -> list[PlanError]:
    """What is wrong between arms: names that stand twice, arms that are not there."""
    mistakes: list[PlanError] = []
    first: dict[str, int] = {}
    for order, arm in enumerate(study.arms):
        # Some file systems take A and a for one name.
        earlier = first.setdefault(arm.name.casefold(), order)
        if earlier != order:
            mistakes.append(
                PlanSchema(
                    f"two arms are called {arm.name}",
                    where=parsed.where(("arms", order, "name")),
                    hint=f"the first is at {parsed.where(('arms', earlier, 'name'))}",
                )
            )
    for order, arm in enumerate(study.arms):
        if arm.like is not None:
            mistakes += _like_mistakes(study, order, parsed.where(("arms", order, "like")))
    return mistakes


def _like_mistakes(study: Study, order: int, where: str) -> list[PlanError]:
    """An arm is like another one only where that one stands by itself."""
    arm = study.arms[order]
    by_name = {entry.name: entry for entry in study.arms}
    other = by_name.get(str(arm.like))
    possible = [name for name, entry in by_name.items() if entry.like is None]
    hint = f"arms that can be named here: {', '.join(possible) or 'none'}"
    if other is None:
        return [PlanSchema(f"there is no arm called {arm.like}", where=where, hint=hint)]
    if other.like is not None:
        fact = f"`like` names {arm.like}, which is itself like another arm"
        return [PlanSchema(fact, where=where, hint=hint)]
    if arm.kind in ("baseline", "scratch") and other.kind != "plan":
        fact = f"`like` names {arm.like}, which is no plan whose size could be met"
        return [PlanSchema(fact, where=where)]
    return []


def _line(error: PlanError) -> int:
    found = re.search(r":(\d+)", error.where or "")
    return int(found.group(1)) if found else 0

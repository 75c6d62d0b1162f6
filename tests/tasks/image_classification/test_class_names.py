"""Whether data have the classes of a model, and what a run makes of it."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from scalenet_cli import EvalOptions, SourceOptions, evaluate, expand_checkpoint
from scalenet_cli.bundle.read import read_manifest
from scalenet_cli.commands.finetune import FinetuneReport
from scalenet_cli.errors import ClassesDiffer
from scalenet_cli.families.sources.timm_config import label_names_of
from scalenet_cli.models.describe import describe
from scalenet_cli.models.target import open_target
from scalenet_cli.plan.load import plan_from_dict
from scalenet_cli.tasks.image_classification.data.class_names import (
    Case,
    KnownClasses,
    guessed_classes,
    listed_classes,
    match_classes,
)
from scalenet_cli.tasks.image_classification.evaluation.guessing import is_guessing
from scalenet_cli.tasks.image_classification.head import ImageFacts, image_facts
from scalenet_cli.tasks.image_classification.known_classes import bundle_classes
from tests.images import write_classifier, write_labelled
from tests.training.runs import PLAIN, PLAN, expand_case, tiny_case, train, write_data

IMAGENET: Final = guessed_classes(1000)
NUMBERS: Final = [str(number) for number in range(12)]


def numbered(names: Sequence[str]) -> dict[str, int]:
    return {name: target for target, name in enumerate(names)}


@pytest.mark.parametrize(
    ("known", "found", "case", "says"),
    [
        ([], "ab", "assumed", "the model has no class names, and the data's (a, b) are taken"),
        ("ab", "", "assumed", "the data have no class names"),
        ("ab", "ab", "same", "the data's 2 classes are the model's"),
        (["T-shirt/top", "Bag"], ["t_shirt top", "bag"], "same", ""),
        ("ab", "ba", "moved", "the class b is 0 in the data, but 1 in the model"),
        ("abc", "abd", "mixed", "1 of the model's 3 classes are not in the data, such as c; the "
         "data have d"),
        (["Bag", "Cat"], ["bag", "dog"], "mixed", ""),
        ("abc", "bcd", "mixed", "such as a; the data have d"),
        ("abc", "xyz", "other", "3 of the model's 3 classes are not in the data, such as a"),
        # Numbers name outputs, if anything.
        ([], NUMBERS, "assumed", "in their order"),
        ([], sorted(NUMBERS), "assumed", "class 10 is target 2, sorted as text"),
        (NUMBERS, NUMBERS, "same", ""),
        ([f"{n:04}" for n in range(12)], NUMBERS, "same", ""),
        (NUMBERS, "abcdefghijkl", "assumed", "called otherwise (0, 1, 2, ...)"),
        ("abcdefghijkl", NUMBERS, "assumed", "called otherwise (a, b, c, ...)"),
        ("abcdefghijkl", sorted(NUMBERS), "moved", "class 10 is target 2, sorted as text"),
        (NUMBERS, sorted(NUMBERS), "moved", "the class 10 is 2 in the data, but 10"),
        (["0", "1"], ["7", "8"], "other", ""),
        # A stranger's config; int() takes no more than 4,300 digits.
        (["1" * 5000, "2" * 5000], "ab", "other", "such as 1111"),
        (["a\n", "b" * 99], ["x\x1b", "y"], "other", "such as a\\n; the data have x\\x1b, y"),
    ],
)  # fmt: skip
def test_names_are_compared(
    known: Sequence[str], found: Sequence[str], case: Case, says: str
) -> None:
    match = match_classes(KnownClasses(numbered(known)), numbered(found), mapped=False)
    assert match.case == case
    assert says in match.text
    assert match.text.isprintable()


def test_imagenets_classes_are_only_a_guess() -> None:
    synsets = list(IMAGENET.names)
    assert (IMAGENET.guessed, len(synsets), synsets[0]) == ("imagenet-1k", 1000, "n01440764")
    assert guessed_classes(10) == KnownClasses()
    others = [f"n9{number:07}" for number in range(1000)]
    folders = [f"{number}" for number in range(1000)]
    cases: dict[Case, Sequence[str]] = {
        "same": synsets,
        "moved": synsets[::-1],
        "mixed": [*synsets[1:], others[0]],
        "other": others,
        "assumed": [f"food{number}" for number in range(1000)],
    }
    for case, names in cases.items():
        assert match_classes(IMAGENET, numbered(names), mapped=False).case == case
    # ImageNet-V2's folders: with a reader that sorts them as text every accuracy is wrong.
    assert match_classes(IMAGENET, numbered(folders), mapped=False).case == "assumed"
    assert match_classes(IMAGENET, numbered(sorted(folders)), mapped=False).case == "moved"


def test_a_class_map_is_the_users_word() -> None:
    named = KnownClasses(numbered("abc"))
    assert match_classes(named, numbered("xyz"), mapped=True).case == "mapped"
    assert match_classes(named, {"c": 0}, mapped=True).case == "moved"
    assert match_classes(IMAGENET, {"n01440764": 7}, mapped=True).case == "mapped"


def test_names_in_a_config_of_timm() -> None:
    cases: tuple[tuple[Any, tuple[str, ...]], ...] = (
        (["a", "b"], ("a", "b")), ({"0": "a", "1": "b"}, ("a", "b")), ({"0": "a", "2": "b"}, ()),
        (None, ()), (["a", 1], ()), ("ab", ()),
    )  # fmt: skip
    for given, names in cases:
        assert label_names_of({"label_names": given}) == names


@pytest.mark.parametrize("names", [None, "ab", ["a"], ["a", "a"], ["a", 1], {"0": "a"}])
def test_lists_that_name_no_classes(names: Any) -> None:
    assert listed_classes(names, 2) == KnownClasses()
    assert listed_classes(["a", "b"], 2) == KnownClasses({"a": 0, "b": 1})


@pytest.mark.parametrize(
    ("share", "guess", "size", "guessing"),
    [
        (0.066, 0.1, 10_000, True), (0.19, 0.1, 10_000, True), (0.2, 0.1, 10_000, False),
        (0.003, 0.001, 1000, True), (0.005, 0.001, 1000, False), (0.003, 0.001, 50_000, False),
        (0.549, 0.5, 1000, True), (0.56, 0.5, 1000, False), (0.92, 0.9, 1000, False),
        (1 / 3, 1 / 3, 6, True), (5 / 6, 1 / 3, 6, False), (1.0, 1.0, 5, True),
    ],
)  # fmt: skip
def test_what_is_no_better_than_guessing(
    share: float, guess: float, size: int, guessing: bool
) -> None:
    assert is_guessing(share, guess, size) == guessing


class Heard:
    """A reporter that keeps notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def started(self, first_step: int, last_step: int) -> None: ...
    def stepped(self, step: int, values: Mapping[str, float]) -> None: ...
    def evaluated(self, step: int, scores: object) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)


def renamed(data: Path, output: Path, names: Mapping[str, str]) -> Path:
    """The same pictures in folders of other names."""
    for split in ("train", "validation"):
        for old, new in names.items():
            shutil.copytree(data / split / old, output / split / new)
    return output


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``run`` was trained on the pictures of ``numbers``, whose classes are called 0 to 4."""
    folder = tmp_path_factory.mktemp("ground")
    data = write_data(folder / "data", train=60, val=30)
    renamed(data, folder / "numbers", {f"class{n}": f"{n}" for n in range(5)})
    renamed(data, folder / "turned", {f"class{n}": f"{(n + 1) % 5}" for n in range(5)})
    renamed(data, folder / "fruits", {f"class{n}": f"fruit{n}" for n in range(5)})
    expand_case(tiny_case("vit"), folder / "out")
    recipe = {**PLAIN, "epochs": 6, "lr": 1e-2, "train": "all", "eval_epochs": 6}
    report = train(folder / "out", folder / "numbers", folder / "run", recipe)
    assert report.best > 60
    return folder


def trained(ground: Path, output: Path, start: str, data: str, **more: Any) -> FinetuneReport:
    heard = Heard()
    recipe = {**PLAIN, "max_steps": 1, **more.pop("recipe", {})}
    report = train(ground / start, ground / data, output, recipe, reporter=heard, **more)
    assert tuple(note for note in heard.notes if "no evaluation" not in note) == report.notes
    return report


def test_equal_names_of_other_data_are_found_by_the_first_evaluation(
    ground: Path, tmp_path: Path
) -> None:
    report = trained(ground, tmp_path / "own", "run", "numbers")
    assert (report.classes, report.new_head, report.notes) == ("same", False, ())
    report = trained(ground, tmp_path / "turned", "run", "turned")
    assert (report.classes, report.new_head) == ("same", False)
    (note,) = report.notes
    assert f"before training {report.before:.2f} % of the validation images are right" in note
    assert "the most frequent class alone is 20.00 % of them" in note
    assert note.endswith("add --reset-head")
    # It is not done again in a run that goes on, but what it said is still in the report.
    recipe = {**PLAIN, "max_steps": 1}
    again = train(ground / "run", ground / "turned", tmp_path / "turned", recipe, resume=True)
    assert again.notes == (note,)
    # A head that is trained learns the classes.
    report = trained(ground, tmp_path / "all", "run", "turned", recipe={"train": "all"})
    assert ("head" in report.trained_groups, report.notes) == (True, ())


def test_what_becomes_of_the_head(ground: Path, tmp_path: Path) -> None:
    first = trained(ground, tmp_path / "first", "out", "fruits", recipe={"train": "all"})
    assert (first.classes, first.new_head) == ("assumed", False)
    assert first.notes[0].startswith("the head is kept: the model has no class names, and the data")
    # A head that was kept as it was has not learned what the data's classes are called.
    frozen = trained(ground, tmp_path / "frozen", "out", "fruits")
    assert (
        evaluate(tmp_path / "frozen", ground / "fruits", how=EvalOptions(workers=0)).classes
        == (frozen.classes)
        == "assumed"
    )
    names = {f"class{n}": f"tree{n}" for n in range(5)}
    trees = renamed(ground / "data", tmp_path / "trees", names)
    report = trained(tmp_path, tmp_path / "second", "first", "trees")
    assert (report.classes, report.new_head) == ("new", True)
    assert "head" in report.trained_groups
    (note,) = report.notes
    assert note == (
        "the head is new: 5 classes, and it is trained too, because 5 of the model's 5 classes are "
        "not in the data, such as fruit0; the data have tree0, tree1, tree2, ..."
    )
    for split in ("train", "validation"):
        (trees / split / "tree4").rename(trees / split / "fruit4")
    with pytest.raises(ClassesDiffer, match="4 of the model's 5 classes") as raised:
        trained(tmp_path, tmp_path / "third", "first", "trees")
    assert "--reset-head" in str(raised.value.hint)
    assert "--class-map" in str(raised.value.hint)
    with pytest.raises(ClassesDiffer, match="4 of the model's 5 classes"):
        evaluate(tmp_path / "first", trees, how=EvalOptions(workers=0))


def facts_of(bundle: Path) -> ImageFacts:
    target = open_target(bundle)
    return image_facts(target, describe(target).model)


def test_a_source_may_name_its_classes(ground: Path, tmp_path: Path) -> None:
    names = [f"fruit{number}" for number in range(5)]
    source = write_labelled(tmp_path, dict(enumerate(names)))
    expand_checkpoint(source, plan_from_dict(PLAN), tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["source"]["preprocessing"]["label_names"] == names
    assert facts_of(tmp_path / "out").known == KnownClasses(numbered(names))
    for target in (source, tmp_path / "out"):
        found = evaluate(target, ground / "fruits", how=EvalOptions(workers=0))
        assert (found.classes, found.notes) == ("same", ())
        with pytest.raises(ClassesDiffer, match="such as fruit0; the data have class0"):
            evaluate(target, ground / "data", how=EvalOptions(workers=0))


def test_an_evaluation_says_what_it_assumes(ground: Path, tmp_path: Path) -> None:
    checkpoint, _ = write_classifier(tmp_path)
    options = SourceOptions(model_kwargs={"num_heads": 2})
    how = EvalOptions(workers=0)
    found = evaluate(checkpoint, ground / "fruits", how=how, options=options)
    assert found.classes == "assumed"
    assert found.notes[-1].startswith("the model has no class names, and the data's (fruit0, ")
    assert ("It seems so" in found.notes[-1]) == is_guessing(found.top1 / 100, 0.2, 30)
    known = evaluate(ground / "run", ground / "numbers", how=how)
    assert (known.classes, known.notes) == ("same", ())


def test_a_source_of_a_thousand_outputs(tmp_path: Path) -> None:
    checkpoint, _ = write_classifier(tmp_path, num_classes=1000)
    options = SourceOptions(model_kwargs={"num_heads": 2})
    expand_checkpoint(checkpoint, plan_from_dict(PLAN), tmp_path / "out", options=options)
    assert facts_of(tmp_path / "out").known == IMAGENET
    manifest = read_manifest(tmp_path / "out")
    drawn = manifest.source.model_copy(update={"kind": "random"})
    unknown = manifest.model_copy(update={"source": drawn})
    assert bundle_classes(unknown, 1000) == KnownClasses()

"""Every study that ships fits the source that it is written for."""

from pathlib import Path

import pytest
import timm
from safetensors.torch import save_file

from scalenet_cli.plan.load_study import load_study
from scalenet_cli.study.data import open_study_source
from scalenet_cli.study.plans import Target, describe_arm, make_plan
from scalenet_cli.tasks.recipes import recipe_table
from tests.study.helpers import run_study
from tests.training.runs import slow, write_data

STUDIES = Path(__file__).parents[2] / "recipes" / "studies"
PAPER = sorted(p.stem for p in STUDIES.glob("*.yaml") if not p.stem.startswith("fashion_"))
TWINS = sorted(p.stem for p in STUDIES.glob("fashion_*.yaml"))
# As recipes/studies/make_sources.sh makes them.
SOURCES = {
    "vit": ("vit_tiny_patch16_224", {"img_size": 28, "patch_size": 7, "embed_dim": 64, "depth": 4,
                                     "num_heads": 4}),
    "swin": ("swin_tiny_patch4_window7_224", {"img_size": 32, "window_size": 4, "embed_dim": 32,
                                              "depths": (2, 4), "num_heads": (2, 4)}),
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("fashion"), size=8, classes=10, train=130, val=10)


@pytest.mark.slow
@pytest.mark.parametrize("name", TWINS)
def test_a_small_twin_fits_its_source(name: str, data: Path, tmp_path: Path) -> None:
    model = "swin" if name == "fashion_swin" else "vit"
    architecture, arguments = SOURCES[model]
    made = timm.create_model(architecture, num_classes=10, **arguments)
    source = tmp_path / f"{model}.safetensors"
    save_file({key: value.contiguous() for key, value in made.named_parameters()}, source)
    study = f"studies/{name}"
    report = run_study(
        study, tmp_path / "out", source=str(source), data=str(data), dry_run=True
    )  # fmt: skip
    assert report.arms[0].stored == sum(p.numel() for p in made.parameters())
    assert report.seeds == (0, 1, 2)
    assert all(arm.trainable == arm.stored for arm in report.arms)


@pytest.mark.parametrize(
    "name", [name if name == "table7_deit_small" else slow(name) for name in PAPER]
)
def test_every_plan_of_a_study_of_the_paper_fits_its_source(name: str) -> None:
    document = load_study(f"studies/{name}")
    source = open_study_source(document)
    arms = document.study.arms
    targets: dict[str, Target] = {}
    for order in sorted(range(len(arms)), key=lambda at: arms[at].like is not None):
        arm = arms[order]
        document.recipe(order, source.task, recipe_table())
        like = targets[arm.like] if arm.like is not None else None
        plan = make_plan(document, source, order, like)
        described = describe_arm(source, plan)
        found = Target(described.layout, sum(p.numel() for p in described.model.parameters()))
        targets[arm.name] = found
        if isinstance(arm.plan, str):
            assert plan.recipe is not None
            assert plan.recipe.expect is not None
            assert found.stored == plan.recipe.expect.stored
            assert found.layout.num_new == plan.recipe.expect.new_blocks
        elif arm.kind == "scratch":
            assert like is not None
            assert found.layout.num_instances == like.layout.num_instances
            assert found.stored > like.stored

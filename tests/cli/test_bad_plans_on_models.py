"""Plans that are valid by themselves and do not fit the model."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
import torch

from tests.cli.helpers import USAGE, Run, refuse, short, tensors_of, write_decoder

PlanFile = Callable[[str], Path]
HEAD = "version: 1\nmapping: interpolate\n"
BASE = HEAD + "factor: 2\n"
SMALL = BASE + "adapter: {dim: 4}\n"
OPTIONS: Final = {
    "vit": ("--model-kwargs", "num_heads=2"),
    "swin": ("--arch", "swin_tiny_patch4_window7_224", "--model-kwargs", "img_size=32"),
    "llama": (),
    "gemma3": (),
}


def checkpoint(folder: Path, name: str) -> Path:
    """A tiny model as a file or folder that the command line reads."""
    if name in ("llama", "gemma3"):
        return write_decoder(folder / name, name)
    path = folder / f"{name}.pth"
    torch.save(dict(tensors_of(name)), path)
    return path


def refuse_on(run: Run, folder: Path, plan: Path, model: str, code: str, *says: str) -> str:
    """`expand` and `check --against` refuse the plan in the same words."""
    path = checkpoint(folder, model)
    arguments = ("expand", path, "--plan", plan, "-o", folder / "out", *OPTIONS[model])
    message = refuse(run, folder, *arguments, status=USAGE, code=code, says=says)
    check = ("check", plan, "--against", path, *OPTIONS[model])
    assert refuse(run, folder, *check, status=USAGE, code=code) == message
    return message


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("model", "text", "place", "says"),
    [
        ("vit", SMALL + "shared: {scope: {stages: [1]}}\n", "5  shared.scope.stages[0]",
         "1 stage (0..0), but the scope names stage 1"),
        pytest.param(
            "swin", SMALL + "shared: {scope: {stages: [0, 2]}}\n", "5  shared.scope.stages[1]",
            "2 stages (0..1), but the scope names stage 2", marks=pytest.mark.slow),
        ("vit", SMALL + "shared:\n  scope:\n    blocks: [0, 99]\n", "7  shared.scope.blocks[1]",
         "3 blocks (0..2), but the scope names block 99"),
        ("swin", SMALL + "shared: {scope: {blocks: [4]}}\n", "5  shared.scope.blocks[0]",
         "4 blocks (0..3), but the scope names block 4"),
        ("vit", SMALL + "shared: {scope: {blocks: [1, 1]}}\n", "5  shared.scope.blocks",
         "blocks names 1 more than once"),
    ],
    ids=short,
)  # fmt: skip
def test_a_scope_of_stages_or_blocks_that_do_not_exist(
    run: Run, tmp_path: Path, plan_file: PlanFile, model: str, text: str, place: str, says: str
) -> None:
    plan = plan_file(text)
    refuse_on(run, tmp_path, plan, model, "scope-out-of-range", says, f"where: {plan}:{place}\n")


@pytest.mark.parametrize(
    ("model", "mapping", "rest", "code", "place", "says"),
    [
        ("vit", "[0, 0, 1, 2, 9]", "", "source-out-of-range", "2  mapping.sources[4]",
         "3 blocks (0..2), but the mapping asks for source block 9"),
        ("vit", "[0, 0, 2]", "", "source-missing", "2  mapping.sources",
         "has 3 blocks, but the mapping leaves out 1"),
        ("vit", "[0, 0, 1, 2]", "shared: {scope: {blocks: [1]}}\n", "source-missing",
         "2  mapping.sources", "repeats block 0 of stage 0, which is outside shared.scope"),
        pytest.param(
            "swin", "[0, 0, 1, 1]", "shared: {scope: all}\n", "cross-stage-tie",
            "2  mapping.sources", "scales 2 stages, but mapping.sources has 1 list",
            marks=pytest.mark.slow),
        ("swin", "[[0, 1, 1], [0, 1, 1]]", "", "cross-stage-tie", "2  mapping.sources",
         "scales 1 stage, but mapping.sources has 2 lists"),
        ("swin", "[[0, 1, 1], [0, 2, 1]]", "shared: {scope: all}\n", "source-out-of-range",
         "2  mapping.sources[1][1]", "stage 1 has 2 blocks (0..1)"),
    ],
    ids=short,
)  # fmt: skip
def test_written_out_sources_that_the_model_does_not_have(
    run: Run, tmp_path: Path, plan_file: PlanFile, model: str, mapping: str, rest: str, code: str,
    place: str, says: str,
) -> None:  # fmt: skip
    plan = plan_file(f"version: 1\nmapping: {{sources: {mapping}}}\nadapter: {{dim: 4}}\n{rest}")
    refuse_on(run, tmp_path, plan, model, code, says, f"where: {plan}:{place}\n", "hint:")


@pytest.mark.parametrize(
    ("depth", "code", "says"),
    [
        ("factor: 1.5", "factor-mismatch", ("factor 1.5 of the 3 blocks reused in stage 0 is 4.5",
                                            "`depth: 4` or `depth: 5`")),
        ("factor: 1.1", "factor-mismatch", ("3.3 blocks", "`depth: 3` or `depth: 4`")),
        ("depth: 2", "factor-mismatch", ("3 blocks of stage 0 are reused",
                                         "but the plan asks for 2", "hint:")),
        ("factor: 1400", "plan-too-deep", ("4200 blocks in one stage", "4096")),
        ("factor: 1e300", "plan-schema", ("4096",)),
    ],
    ids=short,
)  # fmt: skip
def test_a_depth_that_cannot_be(
    run: Run, tmp_path: Path, plan_file: PlanFile, depth: str, code: str, says: tuple[str, ...]
) -> None:
    plan = plan_file(f"{HEAD}{depth}\nadapter: {{dim: 4}}\n")
    place = f"where: {plan}:3  {depth.partition(':')[0]}\n"
    refuse_on(run, tmp_path, plan, "vit", code, place, *says)


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("text", "place"),
    [
        (HEAD + "factor: 1\nadapter: {type: none}\n", "3  factor"),
        (HEAD + "adapter: {type: none}\ndepth: 3\n", "4  depth"),
        ("version: 1\nadapter: {type: none}\nmapping:\n  sources: [0, 1, 2]\n",
         "4  mapping.sources"),
        (HEAD + "factor: 1\nstart: identity\nadapter: {type: none}\n", "3  factor"),
        (HEAD + "factor: 1\nadapter:\n  dim: 4\n  instances: new\n", "6  adapter.instances"),
    ],
    ids=short,
)  # fmt: skip
def test_a_plan_that_changes_nothing(
    run: Run, tmp_path: Path, plan_file: PlanFile, text: str, place: str
) -> None:
    plan = plan_file(text)
    refuse_on(
        run, tmp_path, plan, "vit", "plan-changes-nothing", f"where: {plan}:{place}\n", "hint:"
    )


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("model", "adapter", "code", "place", "says"),
    [
        ("vit", "  dim: 32\n", "adapter-too-wide", "5  adapter.dim",
         "adapter.dim is 32, but a Linear of 32 to 128 features has room for at most 31"),
        ("vit", "  dim: 1000000000000\n", "adapter-too-wide", "5  adapter.dim", "at most 31"),
        ("llama", "  dim: 16\n  targets: attention\n", "adapter-too-wide", "5  adapter.dim",
         "32 to 16 features has room for at most 15"),
        ("swin", "  dim: 64\n", "adapter-too-wide", "5  adapter.dim", "at most"),
        ("vit", "  dim: 4\n  targets: [fc1, fc9]\n", "target-matches-nothing",
         "6  adapter.targets[1]", "names fc9, which matches no Linear"),
        ("vit", "  dim: 4\n  targets: ['']\n", "target-matches-nothing",
         "6  adapter.targets[0]", "Linears here: attn.qkv, attn.proj, mlp.fc1, mlp.fc2"),
        ("llama", "  dim: 4\n  targets: [mlp.fc1]\n", "target-matches-nothing",
         "6  adapter.targets[0]", "self_attn.q_proj"),
        ("vit", "  dim: 4\n  instances: new\n  targets: [fc9]\n", "target-matches-nothing",
         "7  adapter.targets[0]", "fc9"),
    ],
    ids=short,
)  # fmt: skip
def test_an_adapter_that_does_not_fit(
    run: Run, tmp_path: Path, plan_file: PlanFile, model: str, adapter: str, code: str,
    place: str, says: str,
) -> None:  # fmt: skip
    plan = plan_file(f"{BASE}adapter:\n{adapter}")
    refuse_on(run, tmp_path, plan, model, code, says, f"where: {plan}:{place}\n", "hint:")


@pytest.mark.parametrize(
    ("model", "rest", "code", "place", "says"),
    [
        ("vit", "train: [norms, gates]\nstart: copy\n", "train-group-missing", "5  train[1]",
         "groups of this model: shared, norms, adapters, embeddings, head"),
        ("llama", "drop_path: 0.1\n", "drop-path-unsupported", "5  drop_path",
         "drop_path is 0.1"),
        ("gemma3", "start: average\n", "start-unsupported", "5  start", "start: identity"),
    ],
    ids=short,
)  # fmt: skip
def test_what_the_model_has_no_place_for(
    run: Run, tmp_path: Path, plan_file: PlanFile, model: str, rest: str, code: str, place: str,
    says: str,
) -> None:  # fmt: skip
    plan = plan_file(SMALL + rest)
    refuse_on(run, tmp_path, plan, model, code, says, f"where: {plan}:{place}\n", "hint:")


@pytest.mark.parametrize(
    ("model", "text", "places"),
    [
        ("swin", SMALL + "shared:\n  scope:\n    stages: [5, 0, 6]\n",
         ("7  shared.scope.stages[0]", "7  shared.scope.stages[2]")),
        ("vit", "version: 1\nmapping:\n  sources:\n  - 0\n  - 7\n  - 8\nadapter: {dim: 4}\n",
         ("3  mapping.sources", "5  mapping.sources[1]", "6  mapping.sources[2]")),
        ("vit", BASE + "adapter:\n  dim: 4\n  targets:\n  - fc1\n  - x\n  - y\n",
         ("8  adapter.targets[1]", "9  adapter.targets[2]")),
        ("vit", BASE + "train: [gates, adapters]\nadapter: {type: none}\nstart: copy\n",
         ("4  train[0]", "4  train[1]")),
        ("llama", BASE + "drop_path: 0.1\nadapter:\n  dim: 99\ntrain: [gates]\nstart: copy\n",
         ("4  drop_path", "6  adapter.dim", "7  train[0]")),
        ("vit", HEAD + "factor: 1.5\nadapter:\n  dim: 4\n  targets: [fc9]\n",
         ("3  factor", "6  adapter.targets[0]")),
    ],
    ids=short,
)  # fmt: skip
def test_all_mistakes_against_a_model_come_at_once_in_the_order_of_the_lines(
    run: Run, tmp_path: Path, plan_file: PlanFile, model: str, text: str, places: tuple[str, ...]
) -> None:
    plan = plan_file(text)
    path = checkpoint(tmp_path, model)
    result = run("check", plan, "--against", path, *OPTIONS[model])
    assert (result.exit_code, result.stdout) == (USAGE, "")
    found = [line for line in result.stderr.splitlines() if "where:" in line]
    assert found == [f"  where: {plan}:{place}" for place in places]


def test_a_mistake_in_a_recipe_is_found_below_its_plan_key(
    run: Run, tmp_path: Path, plan_file: PlanFile
) -> None:
    plan = plan_file(
        "title: t\nsource: s\nplan:\n  version: 1\n  mapping: stack\n  factor: 2\n"
        "  adapter:\n    dim: 32\n"
    )
    refuse_on(run, tmp_path, plan, "vit", "adapter-too-wide", f"where: {plan}:8  plan.adapter.dim")


@pytest.mark.parametrize("command", ["inspect", "count-params", "flops"])
def test_every_command_with_a_plan_refuses_it_alike(
    run: Run, tmp_path: Path, plan_file: PlanFile, command: str
) -> None:
    plan = plan_file(BASE + "adapter: {dim: 32}\n")
    arguments = (command, checkpoint(tmp_path, "vit"), *OPTIONS["vit"], "--plan", plan)
    says = (f"where: {plan}:4  adapter.dim", "at most 31")
    refuse(run, tmp_path, *arguments, status=USAGE, code="adapter-too-wide", says=says)


def test_a_dry_run_refuses_what_the_run_refuses(
    run: Run, tmp_path: Path, plan_file: PlanFile
) -> None:
    plan = plan_file(BASE + "adapter: {dim: 32}\n")
    arguments = ("expand", checkpoint(tmp_path, "vit"), "--plan", plan, *OPTIONS["vit"])
    output = ("-o", tmp_path / "out", "--dry-run")
    refuse(run, tmp_path, *arguments, *output, status=USAGE, code="adapter-too-wide")

"""State dicts inside the dicts of other tools, below prefixes, and without a head."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from safetensors.torch import save_file

from scalenet_cli import SourceOptions, expand_checkpoint, load, verify
from scalenet_cli.errors import (
    AmbiguousArchitecture,
)
from scalenet_cli.families.sources import open_source
from tests.cli.helpers import tensors_of
from tests.conftest import PLAN
from tests.families.helpers import holds
from tests.models import tiny_case

HEADS: Final = {"num_heads": 2}


State = Mapping[str, torch.Tensor]


def _lightning(state: State) -> dict[str, Any]:
    return {
        "epoch": 3,
        "global_step": 10,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {**_under("model.", state), "criterion.weight": torch.ones(5)},
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}],
        "hyper_parameters": {"lr": 0.1, "name": "x"},
    }


def _under(prefix: str, state: State) -> dict[str, torch.Tensor]:
    return {prefix + key: tensor for key, tensor in state.items()}


def _training(name: str) -> Callable[[State], dict[str, Any]]:
    optimizer = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]}
    return lambda state: {name: dict(state), "optimizer": optimizer, "epoch": 2}


@pytest.mark.sample(5)
@pytest.mark.parametrize(
    "wrap",
    [
        _lightning,
        *map(_training, ("model_state_dict", "state_dict", "model", "net", "teacher")),
        *(
            lambda state, prefix=prefix: _under(prefix, state)
            for prefix in (
                "_orig_mod.module.", "module._orig_mod.", "module.module.", "model.", "backbone.",
                "encoder.", "module.model._orig_mod.", "model.backbone.", "visual.trunk.",
            )
        ),
        lambda state: {"model": _under("_orig_mod.module.", state)},
        lambda state: {**_under("backbone.", state), "classifier.weight": torch.ones(2, 2)},
    ],
)  # fmt: skip
def test_containers_and_prefixes_in_any_order(
    wrap: Callable[[State], dict[str, Any]], tmp_path: Path
) -> None:
    case = tiny_case("vit")
    torch.save(wrap(case.model.state_dict()), tmp_path / "x.ckpt")
    source = open_source(str(tmp_path / "x.ckpt"), arguments=HEADS)
    assert holds(source, case.model)
    left_out = [note for note in source.notes if "left out" in note]
    outside = {"criterion.weight", "classifier.weight"} & set(source.dropped)
    assert bool(left_out) == bool(outside)


@pytest.mark.parametrize("name", ["vit", pytest.param("swin", marks=pytest.mark.slow)])
@pytest.mark.parametrize("prefix", ["model.", pytest.param("a.b.", marks=pytest.mark.slow)])
def test_prefixes_in_safetensors_files(name: str, prefix: str, tmp_path: Path) -> None:
    case = tiny_case(name)
    path, plan = tmp_path / "x.safetensors", tmp_path / "plan.yaml"
    save_file({**_under(prefix, case.model.state_dict()), "loss.t": torch.ones(2)}, path)
    plan.write_text(PLAN.replace("copy", "identity") + "shared: {scope: all}\n")
    options = SourceOptions(model_kwargs=HEADS if name == "vit" else {"img_size": 32})
    report = expand_checkpoint(path, plan, tmp_path / "out", options=options)
    assert f"what lies under {prefix}; tensors beside it are left out: loss.t" in str(report.notes)
    assert torch.equal(case.logits(load(tmp_path / "out")), case.logits(case.model))
    assert verify(tmp_path / "out", source=str(path)).compared_tensors > 0


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda s: {"student": dict(s), "teacher": dict(s)}, "2 state dicts: student, teacher"),
        (lambda s: {**_under("student.", s), **_under("teacher.", s)}, "student., teacher."),
        (
            lambda s: {"state_dict": {**_under("model.", s), **_under("ema.module.", s)}},
            "2 models, with keys that start with model., ema.module.",
        ),
    ],
)
def test_several_models_are_named_and_none_is_taken(
    content: Callable[[State], dict[str, Any]], says: str, tmp_path: Path
) -> None:
    torch.save(content(tensors_of("vit")), tmp_path / "x.pth")
    with pytest.raises(AmbiguousArchitecture, match=says):
        open_source(str(tmp_path / "x.pth"), arguments=HEADS)


def test_which_of_two_state_dicts_is_used_is_said(tmp_path: Path) -> None:
    case = tiny_case("vit")
    other = {key: torch.zeros_like(t) for key, t in case.model.state_dict().items()}
    content = {"model_state_dict": case.model.state_dict(), "ema_state_dict": other}
    torch.save(content, tmp_path / "x.pth")
    source = open_source(str(tmp_path / "x.pth"), arguments=HEADS)
    assert holds(source, case.model)
    assert "model_state_dict and ema_state_dict; model_state_dict is used" in source.notes[0]


@pytest.mark.parametrize("name", ["vit", pytest.param("swin", marks=pytest.mark.slow)])
def test_a_file_without_a_head_gives_features(name: str, tmp_path: Path) -> None:
    case = tiny_case(name)
    state = {k: t for k, t in case.model.state_dict().items() if not k.startswith("head.")}
    path, plan = tmp_path / "features.pth", tmp_path / "plan.yaml"
    torch.save(state, path)
    plan.write_text(PLAN.replace("copy", "identity") + "shared: {scope: all}\n")
    options = SourceOptions(model_kwargs=HEADS if name == "vit" else {"img_size": 32})
    report = expand_checkpoint(path, plan, tmp_path / "out", options=options)
    assert any("no head.weight" in note for note in report.notes)
    loaded: Any = load(tmp_path / "out")
    assert loaded.num_classes == 0
    features: Any = case.model
    x = case.inputs["x"]
    with torch.no_grad():
        expected = features.forward_head(features.forward_features(x), pre_logits=True)
        assert torch.equal(loaded(x), expected)

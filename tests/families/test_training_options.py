"""What timm's training script saves beside the weights says what the model is."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import timm
import torch
from timm.utils import CheckpointSaver
from torch import nn

from scalenet_cli import expand_checkpoint, load
from scalenet_cli.errors import (
    ArchitectureMismatch,
)
from scalenet_cli.families.sources import open_source
from tests.cli.helpers import tensors_of
from tests.conftest import PLAN
from tests.families.helpers import holds
from tests.models import tiny_case

HEADS: Final = {"num_heads": 2}
HALF: Final = (0.5, 0.5, 0.5)
TINY: Final = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 4}
ARCH: Final = "vit_tiny_patch16_224"


def save_training(folder: Path, model: nn.Module, options: Mapping[str, Any] | None) -> Path:
    """A checkpoint as timm's own saver writes it; ``options`` are the script's."""
    args = None if options is None else argparse.Namespace(model=ARCH, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    saver = CheckpointSaver(model, optimizer, args=args, checkpoint_dir=str(folder))
    saver.save_checkpoint(0, metric=50.0)
    return folder / "checkpoint-0.pth.tar"


@pytest.mark.parametrize(
    ("gp", "kwargs"),
    [
        (None, {}),
        ("avg", {"fc_norm": False}),
        (None, {"num_heads": 2}),
        *(
            pytest.param(*values, marks=pytest.mark.slow)
            for values in (
                ("avg", {}),
                (None, {"class_token": False, "global_pool": "avg", "init_values": None}),
                (None, {"reg_tokens": 3, "no_embed_class": True, "norm_layer": "layernorm"}),
                (None, {"act_layer": "relu", "pre_norm": True, "img_size": (24, 24)}),
            )
        ),
    ],
)
def test_the_args_of_timms_training_say_what_the_model_computes(
    gp: str | None, kwargs: Mapping[str, Any], tmp_path: Path
) -> None:
    built = {**TINY, **kwargs}
    torch.manual_seed(0)
    model = timm.create_model(ARCH, num_classes=5, **({"global_pool": gp} if gp else {}), **built)
    size = model.patch_embed.img_size[0]
    options = {"gp": gp, "model_kwargs": built, "mean": None, "std": None, "img_size": None,
               "input_size": None, "crop_pct": None, "interpolation": "", "num_classes": 5,
               "drop_path": 0.1, "opt": "adamw"}  # fmt: skip
    path = save_training(tmp_path, model.eval(), options)
    (tmp_path / "plan.yaml").write_text(PLAN.replace("copy", "identity"))
    report = expand_checkpoint(path, tmp_path / "plan.yaml", tmp_path / "out")
    assert "taken from the args that the training script saved" in report.notes[0]
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "out")(x), model(x))


def test_how_images_are_prepared_comes_from_the_args_too(tmp_path: Path) -> None:
    model = timm.create_model(ARCH, num_classes=5, **TINY)
    options = {"model_kwargs": dict(TINY), "mean": [0.1, 0.2, 0.3], "std": (0.4, 0.5, 0.6),
               "crop_pct": 0.8, "interpolation": "bilinear", "crop_mode": "squash"}  # fmt: skip
    path = str(save_training(tmp_path, model, options))
    source = open_source(path)
    assert source.preprocessing["mean"] == [0.1, 0.2, 0.3]
    assert source.preprocessing["std"] == (0.4, 0.5, 0.6)
    assert source.preprocessing["crop_pct"] == 0.8
    assert source.preprocessing["interpolation"] == "bilinear"
    assert source.preprocessing["crop_mode"] == "squash"
    assert "mean 0.1,0.2,0.3, std 0.4,0.5,0.6, crop_pct 0.8" in source.notes[0]
    # The user's own word wins.
    said = open_source(path, arguments={"mean": list(HALF), "interpolation": "bicubic"})
    assert said.preprocessing["mean"] == list(HALF)
    assert said.preprocessing["interpolation"] == "bicubic"
    assert "mean 0.1" not in said.notes[0]


def test_an_image_size_of_the_args_is_the_models_where_the_positions_say_so(
    tmp_path: Path,
) -> None:
    kwargs = {key: value for key, value in TINY.items() if key != "img_size"}
    model = timm.create_model(ARCH, img_size=24, num_classes=5, **kwargs)
    path = save_training(tmp_path, model, {"model_kwargs": kwargs, "img_size": 24})
    assert open_source(str(path)).architecture.arguments["img_size"] == 24
    content = torch.load(path, weights_only=False)
    content["args"].img_size = 32
    torch.save(content, path)
    source = open_source(str(path), arguments={"img_size": 24})
    assert "trained at an image size of 32, but its positions are those of 24" in source.notes[0]


def test_a_saver_without_args_writes_the_name_of_the_class(tmp_path: Path) -> None:
    case = tiny_case("vit")
    path = save_training(tmp_path, case.model, None)
    source = open_source(str(path), arguments=HEADS)
    assert holds(source, case.model)
    assert "calls its architecture 'visiontransformer'" in source.notes[0]


def test_the_args_of_another_script_are_not_read(tmp_path: Path) -> None:
    case = tiny_case("vit")
    args = argparse.Namespace(model="my_net", mean="imagenet", model_kwargs="none", gp=3)
    torch.save({"model": case.model.state_dict(), "args": args}, tmp_path / "x.pth")
    assert holds(open_source(str(tmp_path / "x.pth"), arguments=HEADS), case.model)


def _nested() -> list[Any]:
    value: list[Any] = []
    for _ in range(100):
        value = [value]
    return value


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mean", "abc"),
        ("mean", [0.5, float("nan"), 0.5]),
        ("mean", [0.1, 0.2]),
        ("mean", [10**400]),
        ("mean", torch.zeros(3)),
        ("mean", _nested()),
        ("std", [0.0, 0.5, 0.5]),
        ("std", [-1.0]),
        ("std", {"a": 1}),
        ("crop_pct", float("inf")),
        ("crop_pct", -0.5),
        ("crop_pct", "big"),
        ("interpolation", "x" * 10_000),
        ("interpolation", "\x1b]0;title\x07"),
        ("interpolation", 3),
        ("gp", "nonsense"),
        ("gp", 7),
        ("gp", [1] * 1000),
        ("img_size", "large"),
        ("img_size", -4),
        ("img_size", 10**12),
        ("input_size", [3, 10**9, 10**9]),
        ("model_kwargs", "num_heads=4"),
        ("model_kwargs", {3: 4}),
        ("model_kwargs", {str(number): 1 for number in range(1000)}),
        ("model_kwargs", {"depth": 10**9}),
        ("model_kwargs", {"embed_dim": 2**40}),
        ("model_kwargs", {"checkpoint_path": "/etc/passwd"}),
        ("model_kwargs", {"pretrained": True}),
        ("model_kwargs", {"norm_layer": "os.system"}),
        ("model_kwargs", {"mlp_ratio": 10**400}),
        ("model_kwargs", {"block_fn": "print"}),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 20 else "value",
)
def test_args_that_timm_could_not_have_used_are_refused(
    tmp_path: Path, key: str, value: Any
) -> None:
    args = argparse.Namespace(**{"model_kwargs": HEADS, key: value})
    content = {"arch": ARCH, "args": args, "state_dict": dict(tensors_of("vit"))}
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ArchitectureMismatch) as raised:
        open_source(str(tmp_path / "x.pth"))
    assert raised.value.hint
    fact = raised.value.fact
    assert fact.startswith(("the args that the training script saved", "timm refuses the argum"))
    assert all(line.isprintable() for line in str(raised.value).splitlines())


def test_a_namespace_that_pretends_to_be_something_else_runs_nothing(tmp_path: Path) -> None:
    args = argparse.Namespace()
    vars(args).update({"__class__": "x", "__dict__": {"gp": "avg"}, "model": ["m"], "gp": None})
    content = {"arch": "\x00" * 5000, "args": args, "state_dict": dict(tensors_of("vit"))}
    torch.save(content, tmp_path / "x.pth")
    assert holds(open_source(str(tmp_path / "x.pth"), arguments=HEADS), tiny_case("vit").model)

"""What a timm file is: by its name, its args, its containers and prefixes, its shapes."""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.utils import CheckpointSaver
from torch import nn

from scalenet_cli import SourceOptions, expand_checkpoint, load, verify
from scalenet_cli.errors import (
    AmbiguousArchitecture,
    ArchitectureMismatch,
    UnknownArchitecture,
)
from scalenet_cli.families.base import Architecture
from scalenet_cli.families.sources import Source, open_source
from scalenet_cli.families.sources.candidates import Candidate, named_by
from scalenet_cli.families.timm_models import build_timm
from tests.cli.helpers import Run, blank_timm, tensors_of
from tests.conftest import PLAN
from tests.models import tiny_case

HEADS: Final = {"num_heads": 2}
HALF: Final = (0.5, 0.5, 0.5)
TINY: Final = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 4}
ARCH: Final = "vit_tiny_patch16_224"


def holds(source: Source, model: nn.Module) -> bool:
    """The source's tensors are the model's parameters, bit for bit."""
    expected = dict(model.named_parameters())
    return source.tensors.keys() == expected.keys() and all(
        torch.equal(tensor.read(), expected[key]) for key, tensor in source.tensors.items()
    )


# The file's own name, between architectures of the same shapes.


@pytest.fixture(scope="module")
def twins() -> list[Candidate]:
    names = ("deit_tiny_patch16_224", "vit_tiny_patch16_224")
    architectures = [Architecture("vit", name) for name in names]
    return [Candidate(one, build_timm(one)) for one in architectures]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("deit_tiny", "deit_tiny_patch16_224"),
        ("deit", "deit_tiny_patch16_224"),
        ("deit_tiny_patch16_224-a1311bcf", "deit_tiny_patch16_224"),
        ("my-vit-finetuned", "vit_tiny_patch16_224"),
        ("vit_tiny_patch16_224.augreg", "vit_tiny_patch16_224"),
        ("run7_deit_tiny_patch16_224_best", "deit_tiny_patch16_224"),
        ("model_best", None),
        ("tiny_patch16_224", None),
        ("deit_from_vit", None),
        ("deit_tiny_patch16_224_to_vit_tiny_patch16_224", None),
        ("davit", None),
        ("", None),
    ],
)
def test_a_file_name_names_one_candidate_or_none(
    twins: list[Candidate], name: str, meant: str | None
) -> None:
    for candidates in (twins, twins[::-1]):
        found = named_by(name, candidates)
        assert (found.name if found else None) == meant


def test_the_command_of_the_readme_on_a_plain_state_dict(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x2.yaml").write_text(PLAN)
    torch.save(timm.create_model("deit_tiny_patch16_224").state_dict(), tmp_path / "deit_tiny.pth")
    command = ("expand", tmp_path / "deit_tiny.pth", "--plan", tmp_path / "x2.yaml")
    told = run(*command, "-o", tmp_path / "out")
    assert told.exit_code == 0, told.stderr
    assert "note: read as deit_tiny_patch16_224, as the file's name says" in told.stderr
    assert "vit_tiny_patch16_224 would change mean 0.5, std 0.5" in told.stderr
    source = json.loads((tmp_path / "out/manifest.json").read_text())["source"]
    assert source["architecture"] == "deit_tiny_patch16_224"
    assert source["preprocessing"]["mean"] == [0.485, 0.456, 0.406]


def test_a_name_that_says_nothing_is_a_guess_that_is_said_loudly(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x2.yaml").write_text(PLAN)
    path = blank_timm(tmp_path / "model_best.safetensors", "vit_tiny_patch16_224")
    command = ("expand", path, "--plan", tmp_path / "x2.yaml", "-o", tmp_path / "out", "--dry-run")
    told = run(*command, "--json")
    assert told.exit_code == 0, told.stderr
    (note,) = json.loads(told.stdout)["notes"]
    assert f"note: {note}\n" in told.stderr
    for words in ("GUESS", "read as deit_tiny_patch16_224", "vit_tiny_patch16_224 would change",
                  "mean 0.5, std 0.5", "--arch"):  # fmt: skip
        assert words in note
    named = run(*command, "--json", "--arch", "vit_tiny_patch16_224")
    assert json.loads(named.stdout)["notes"] == []


@pytest.mark.slow
def test_a_tag_of_timms_in_the_name_brings_its_preprocessing(tmp_path: Path) -> None:
    path = blank_timm(tmp_path / "vit_large_patch16_224.mae.safetensors", "vit_large_patch16_224")
    source = open_source(str(path))
    assert source.architecture.name == "vit_large_patch16_224.mae"
    assert source.preprocessing["mean"] == (0.485, 0.456, 0.406)
    assert "as the file's name says" in source.notes[0]
    plain = open_source(str(path.rename(tmp_path / "vit_large_patch16_224.safetensors")))
    assert (plain.architecture.name, plain.notes) == ("vit_large_patch16_224", ())
    assert plain.preprocessing["mean"] == HALF


# Containers and prefixes.

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
    plan.write_text(PLAN + "start: identity\nshared: {scope: all}\n")
    options = SourceOptions(model_kwargs=HEADS if name == "vit" else {"img_size": 32})
    report = expand_checkpoint(path, plan, tmp_path / "out", options=options)
    assert f"what lies under {prefix}; 1 tensors beside it are left out, such as loss.t" in str(
        report.notes
    )
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
    plan.write_text(PLAN + "start: identity\nshared: {scope: all}\n")
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


# What timm's training script saves.


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
    (tmp_path / "plan.yaml").write_text(PLAN + "start: identity\n")
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
    assert all(line.isprintable() for line in str(raised.value).splitlines())


def test_a_namespace_that_pretends_to_be_something_else_runs_nothing(tmp_path: Path) -> None:
    args = argparse.Namespace()
    vars(args).update({"__class__": "x", "__dict__": {"gp": "avg"}, "model": ["m"], "gp": None})
    content = {"arch": "\x00" * 5000, "args": args, "state_dict": dict(tensors_of("vit"))}
    torch.save(content, tmp_path / "x.pth")
    assert holds(open_source(str(tmp_path / "x.pth"), arguments=HEADS), tiny_case("vit").model)


# Shapes.


@pytest.mark.parametrize("name", ["test_vit2", "test_vit3", "deit3_small_patch16_224"])
def test_register_tokens_average_pooling_and_positions_without_them(
    name: str, tmp_path: Path
) -> None:
    source = open_source(str(blank_timm(tmp_path / "x.safetensors", name)))
    assert (source.architecture.name, source.notes) == (name, ())


@pytest.mark.parametrize(
    "changes",
    [
        {"reg_tokens": 2, "class_token": False, "global_pool": "avg"},
        {"reg_tokens": 4, "class_token": False, "global_pool": "avg", "no_embed_class": True},
        {"class_token": False, "global_pool": "avg", "fc_norm": False},
        {"global_pool": "avg"},
        {"no_embed_class": True, "init_values": 0.1},
        {"global_pool": "map", "pre_norm": True},
        {"qk_norm": True},
    ],
)
def test_a_vit_of_its_own_is_built_with_all_that_its_shapes_show(
    changes: Mapping[str, Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = timm.create_model(ARCH, num_classes=5, **TINY, **changes).eval()
    torch.save(model.state_dict(), tmp_path / "x.pth")
    arguments = {} if "qk_norm" in changes else {"num_heads": 4}
    source = open_source(str(tmp_path / "x.pth"), arguments=arguments)
    again = build_timm(source.architecture)
    again.load_state_dict({key: t.read() for key, t in source.tensors.items()}, assign=True)
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))


def test_images_that_are_no_square_have_to_be_named(tmp_path: Path) -> None:
    model = timm.create_model(ARCH, num_classes=5, **{**TINY, "img_size": (16, 32)})
    torch.save(model.state_dict(), tmp_path / "x.pth")
    with pytest.raises(AmbiguousArchitecture, match="no square") as raised:
        open_source(str(tmp_path / "x.pth"))
    assert raised.value.hint is not None
    assert "img_size=" in raised.value.hint
    given = {"img_size": [16, 32], "num_heads": 4}
    assert holds(open_source(str(tmp_path / "x.pth"), arguments=given), model)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("resnet18", "a ResNet"),
        ("beit_base_patch16_224", "a BEiT"),
        *(
            pytest.param(*values, marks=pytest.mark.slow)
            for values in (
                ("convnext_atto", "a ConvNeXt"),
                ("vit_small_patch16_dinov3", "no pos_embed"),
                ("swinv2_cr_tiny_ns_224", "a Swin V2"),
            )
        ),
    ],
)
def test_what_is_not_supported_is_called_by_its_name(name: str, kind: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownArchitecture, match=kind) as raised:
        open_source(str(blank_timm(tmp_path / "x.safetensors", name)))
    assert "supported are timm ViT" in (raised.value.hint or "")


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("visual.transformer.resblocks.0.attn.in_proj_weight", "OpenAI's CLIP"),
        ("vision_model.encoder.layers.0.mlp.fc1.weight", "a Hugging Face CLIP"),
        ("vit.embeddings.patch_embeddings.projection.weight", "a Hugging Face ViT"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "a LoRA"),
    ],
)
def test_other_libraries_are_called_by_their_names(key: str, kind: str, tmp_path: Path) -> None:
    save_file({key: torch.zeros(2, 2)}, tmp_path / "x.safetensors")
    with pytest.raises(UnknownArchitecture, match=kind):
        open_source(str(tmp_path / "x.safetensors"))


def test_weights_that_no_number_of_heads_would_explain_say_what_differs(tmp_path: Path) -> None:
    state = {**tensors_of("vit"), "blocks.0.strange": torch.zeros(2)}
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(ArchitectureMismatch, match=r"unexpected, such as blocks\.0\.strange"):
        open_source(str(tmp_path / "x.pth"))

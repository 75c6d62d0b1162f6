"""Weights that no architecture, several, or another one than named would explain."""

import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.cli.helpers import (
    DATA,
    USAGE,
    Run,
    refuse,
    refuse_checkpoint,
    short,
    tensors_of,
)
from tests.conftest import VIT_OPTIONS

SWIN = "swin_tiny_patch4_window7_224"
RANDOM = "--random-weights"


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    """A tiny ViT that is in order."""
    path = tmp_path / "vit.pth"
    torch.save(dict(tensors_of("vit")), path)
    return path


def test_keys_of_no_supported_family(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "resnet.pth"
    keys = ("conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "fc.weight")
    torch.save({key: torch.zeros(4, 4) for key in keys}, path)
    says = (
        "a ResNet, such as layer1.0.conv1.weight",
        f"where: {path}",
        "supported are timm ViT, DeiT and Swin",
    )
    refuse_checkpoint(run, tmp_path, path, "unknown-architecture", *says)


@pytest.mark.parametrize(
    "tensors",
    [
        {"patch_embed.proj.weight": torch.zeros(4), "blocks.0.attn.qkv.weight": torch.zeros(4)},
        {"patch_embed.proj.weight": torch.zeros(8, 3, 4, 4),
         "blocks.0.attn.qkv.weight": torch.zeros(24, 8)},
        {"patch_embed.proj.weight": torch.zeros(0, 3, 4, 4),
         "blocks.0.attn.qkv.weight": torch.zeros(0, 0)},
        {"layers.0.blocks.0.attn.relative_position_bias_table": torch.zeros(49, 2)},
        {"layers.0.blocks.0.attn.relative_position_bias_table": torch.zeros(0, 0),
         "patch_embed.proj.weight": torch.zeros(8, 3, 4, 4)},
    ],
    ids=short,
)  # fmt: skip
def test_the_first_keys_of_a_family_and_nothing_behind_them(
    run: Run, tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(tensors, path)
    refuse_checkpoint(run, tmp_path, path, "unknown-architecture", f"where: {path}")


@pytest.mark.parametrize("key", ["blocks.999999999.x", f"blocks.{'9' * 5000}.x"], ids=short)
def test_a_key_that_counts_blocks_without_end_is_refused_in_time(
    run: Run, tmp_path: Path, key: str
) -> None:
    path = tmp_path / "vit.safetensors"
    save_file({**tensors_of("vit"), key: torch.zeros(1)}, path)
    started = time.process_time()
    arguments = ("inspect", path, *VIT_OPTIONS)
    refuse(run, tmp_path, *arguments, status=DATA, code="architecture-mismatch", says=(str(path),))
    assert time.process_time() - started < 5


def test_a_vit_of_its_own_needs_its_number_of_heads(run: Run, tmp_path: Path, vit: Path) -> None:
    heads = "1, 2, 4, 8, 16, 32 would fit"
    says = ("embed_dim 32, depth 3", heads, f"where: {vit}", "--model-kwargs num_heads=")
    refuse(run, tmp_path, "inspect", vit, status=DATA, code="ambiguous-architecture", says=says)


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (("--arch", "vit_tinny_patch16_224"), "unknown-architecture", "vit_tiny_patch16_224"),
        (("--arch", "resnet50"), "unknown-architecture", "resnet50"),
        (("--arch", "hf_hub:stranger/model"), "unknown-architecture", "stranger"),
        (("--arch", "../vit_tiny_patch16_224"), "unknown-architecture", "hint:"),
        (("--arch", SWIN), "architecture-mismatch", "is a swin model, but the tensors are a vit"),
        (("--arch", "vit_base_patch16_224"), "architecture-mismatch", "hint:"),
        (("--arch", "deit_tiny_distilled_patch16_224", *VIT_OPTIONS), "architecture-mismatch",
         "where:"),
        (("--model-kwargs", "num_heads=3"), "architecture-mismatch", "num_heads"),
        ((*VIT_OPTIONS, "--model-kwargs", "depth=4"), "architecture-mismatch", "missing"),
        ((*VIT_OPTIONS, "--model-kwargs", "embed_dim=64"), "architecture-mismatch",
         "but the architecture has"),
        ((*VIT_OPTIONS, "--model-kwargs", "num_classes=1000"), "architecture-mismatch",
         "(5, 32), but the architecture has (1000, 32)"),
        ((*VIT_OPTIONS, "--model-kwargs", "img_size=224"), "architecture-mismatch", "hint:"),
    ],
    ids=short,
)  # fmt: skip
def test_an_architecture_that_does_not_fit(
    run: Run, tmp_path: Path, vit: Path, options: tuple[str, ...], code: str, says: str
) -> None:
    message = refuse_checkpoint(run, tmp_path, vit, code, says, options=options)
    assert "where:" in message or repr(options[1]) in message or options[1] in message


@pytest.mark.sample(5)
@pytest.mark.parametrize(
    ("item", "says"),
    [
        ("num_heads", "key=value"),
        ("=4", "key=value"),
        ("num heads=4", "key=value"),
        ("num-heads=4", "key=value"),
        ("", "key=value"),
        ("num_heads=[1", "num_heads=[1"),
        ("num_heads=1,]", "num_heads=1,]"),
        ("num_heads=!!python/object/apply:os.getcwd []", "cannot be read"),
        ("num_heads=!!bool perhaps", "cannot be read"),
        ("num_heads=!!int ''", "cannot be read"),
        ("num_heads=2001-99-99", "cannot be read"),
        ("num_heads=\x07", "cannot be read"),
        ("num_heads=*a", "cannot be read"),
        ("num_heads=" + "9" * 5000, "cannot be read"),
        ("num_heads=" + "[" * 5000, "cannot be read"),
    ],
    ids=short,
)
def test_model_kwargs_of_a_wrong_form(
    run: Run, tmp_path: Path, vit: Path, item: str, says: str
) -> None:
    refuse(
        run, tmp_path, "inspect", vit, "--model-kwargs", item, status=USAGE, code="option",
        says=(says,),
    )  # fmt: skip


def test_model_kwargs_twice(run: Run, tmp_path: Path, vit: Path) -> None:
    options = (*VIT_OPTIONS, *VIT_OPTIONS)
    says = "--model-kwargs gives num_heads twice"
    refuse_checkpoint(run, tmp_path, vit, "option", says, options=options, status=USAGE)


@pytest.mark.sample(5)
@pytest.mark.parametrize(
    ("item", "says"),
    [
        ("num_headz=2", "num_headz"),
        ("num_heads=two", "num_heads"),
        ("num_heads=0", "num_heads"),
        ("num_heads=-2", "num_heads"),
        ("num_heads=1.5", "num_heads"),
        ("num_heads=", "num_heads"),
        ("depth=0", "depth"),
        ("depth=-1", "depth"),
        ("depth=100000000", "depth"),
        ("embed_dim=0", "embed_dim"),
        ("embed_dim=1000000000000", ""),
        ("patch_size=0", "patch_size"),
        ("img_size=0", "img_size"),
        ("img_size=8,8,8", "img_size"),
        ("mlp_ratio=-1", ""),
        ("norm_eps=small", "norm_eps"),
        ("norm_layer=os.system", "norm_layer"),
        ("act_layer=nonsense", "act_layer"),
        ("block_fn=print", "block_fn"),
        ("global_pool=nonsense", "global_pool"),
        ("features_only=true", "features_only"),
        ("mean=abc", "mean"),
        ("std=0,0", "std"),
        ("crop_pct=abc", "crop_pct"),
        ("input_size=1", "input_size"),
        ("weight_init=nonsense", "weight_init"),
        ("in_chans=0", "in_chans"),
        ("checkpoint_path=/etc/passwd", "checkpoint_path is no argument"),
        ("pretrained=true", "pretrained is no argument"),
        ("pretrained_cfg=x", "pretrained_cfg is no argument"),
        ("pretrained_cfg_overlay=x", "pretrained_cfg_overlay is no argument"),
        ("cache_dir=/tmp", "cache_dir is no argument"),
    ],
    ids=short,
)
@pytest.mark.parametrize("weights", ["file", "random"])
def test_model_kwargs_that_make_no_model(
    run: Run, tmp_path: Path, vit: Path, weights: str, item: str, says: str
) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("version: 1\nmapping: stack\nfactor: 2\nadapter: {dim: 4}\n")
    tiny = ("img_size=16", "patch_size=4", "embed_dim=32", "depth=3", "num_heads=2")
    target = (vit,) if weights == "file" else ("timm:vit_tiny_patch16_224", RANDOM)
    given = tiny[-1:] if weights == "file" else tiny
    name = item.partition("=")[0]
    kept = [one for one in given if one.partition("=")[0] != name]
    options = [part for one in (*kept, item) for part in ("--model-kwargs", one)]
    started = time.process_time()
    result = run("expand", *target, "--plan", plan, "-o", tmp_path / "out", *options)
    assert time.process_time() - started < 5
    assert result.exit_code in (2, 3), repr(result.exception)
    assert result.stdout == ""
    assert result.stderr.count("error[") == 1
    assert says in result.stderr
    assert "hint:" in result.stderr or "where:" in result.stderr
    assert not (tmp_path / "out").exists()
    assert all(line.isprintable() for line in result.stderr.splitlines())


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("reference", "options", "status", "code", "says"),
    [
        ("timm:resnet50", (RANDOM,), 3, "unknown-architecture", "resnet50"),
        ("timm:", (RANDOM,), 3, "unknown-architecture", "hint:"),
        ("timm:../../x", (RANDOM,), 3, "unknown-architecture", "hint:"),
        ("timm:vit_tiny_patch16_224", (RANDOM, "--arch", "x"), 2, "option", "leave out --arch"),
        ("timm:vit_tiny_patch16_224", (), 3, "download-failed", "--random-weights"),
        ("timm:vit_tiny_patch16_224.no_such_tag", (), 3, "unknown-architecture", "no_such_tag"),
        ("hf:stranger/model", (), 3, "download-failed", "hf:stranger/model"),
        ("hf:../../etc", (), 3, "download-failed", "hf:../../etc"),
        ("hf:", (), 3, "download-failed", "hf:"),
        ("hf:a/b@../c", (), 3, "download-failed", "hf:a/b"),
        ("https://example.com/deit.pth", (), 3, "checkpoint-not-found", "hf:REPO"),
        ("", (), 3, "checkpoint-not-found", "hint:"),
    ],
    ids=short,
)
def test_a_reference_that_leads_nowhere(
    run: Run, tmp_path: Path, reference: str, options: tuple[str, ...], status: int, code: str,
    says: str,
) -> None:  # fmt: skip
    plan = tmp_path / "plan.yaml"
    plan.write_text("version: 1\nmapping: stack\nfactor: 2\n")
    arguments = ("expand", reference, "--plan", plan, "-o", tmp_path / "out", *options)
    refuse(run, tmp_path, *arguments, status=status, code=code, says=(says,))


def test_random_weights_are_not_for_files(run: Run, tmp_path: Path, vit: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("version: 1\nmapping: stack\nfactor: 2\n")
    arguments = ("expand", vit, "--plan", plan, "-o", tmp_path / "out", RANDOM)
    refuse(run, tmp_path, *arguments, status=USAGE, code="option", says=("timm:NAME",))

"""What a timm file is: by its own name, and by the shapes of its tensors."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import timm
import torch
from safetensors.torch import save_file

from scalenet_cli.errors import AmbiguousArchitecture, ArchitectureMismatch, UnknownArchitecture
from scalenet_cli.families.architecture import Architecture
from scalenet_cli.families.sources import open_source
from scalenet_cli.families.sources.candidates import Candidate, named_by
from scalenet_cli.families.timm_models import build_timm
from tests.cli.helpers import Run, blank_timm, tensors_of
from tests.conftest import PLAN
from tests.families.helpers import holds

HALF: Final = (0.5, 0.5, 0.5)
TINY: Final = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 4}
ARCH: Final = "vit_tiny_patch16_224"


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
    (tmp_path / "x2.yaml").write_text(PLAN.replace("copy", "identity"))
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


# Shapes.


@pytest.mark.parametrize("name", ["test_vit2", "test_vit3", "deit3_small_patch16_224"])
def test_register_tokens_average_pooling_and_positions_without_them(
    name: str, tmp_path: Path
) -> None:
    source = open_source(str(blank_timm(tmp_path / "x.safetensors", name)))
    assert (source.architecture.name, source.notes) == (name, ())


@pytest.mark.sample(3)
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

"""Real checkpoints, real images: the folder that SCALENET_ASSETS names holds them."""

import itertools
import os
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from transformers import AutoTokenizer, LlamaForCausalLM

from scalenet_cli import SourceOptions, expand_checkpoint, load, verify

pytestmark = [
    pytest.mark.assets,
    # timm's folder reader leaves closing its images to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

STARTS = ("copy", "average", "identity", None)
MAPPINGS = ("interpolate", "stack", "{sources: [0, 1, 1, 2, 3, 0]}")
VIT = SourceOptions(
    model_kwargs={"num_heads": 4, "norm_eps": 1e-5, "mean": [0, 0, 0], "std": [1, 1, 1]}
)


def asset(name: str) -> Path:
    """One unpacked asset."""
    folder = os.environ.get("SCALENET_ASSETS")
    assert folder, "set SCALENET_ASSETS to the folder that the assets are unpacked in"
    return Path(folder) / name


def write_plan(folder: Path, mapping: str, start: str | None, dim: int = 8) -> str:
    """A plan; without a start it leaves that to the default."""
    factor = "" if "sources" in mapping else "factor: 2\n"
    chosen = "" if start is None else f"start: {start}\n"
    path = folder / "plan.yaml"
    path.write_text(f"version: 1\nmapping: {mapping}\n{factor}{chosen}adapter: {{dim: {dim}}}\n")
    return str(path)


@pytest.fixture(scope="module")
def cifar10() -> tuple[torch.Tensor, torch.Tensor]:
    """The 10,000 validation images in 0..1, and their labels."""
    from timm.data import create_dataset, create_transform

    transform = create_transform((3, 32, 32), mean=(0, 0, 0), std=(1, 1, 1), crop_pct=1.0)
    dataset = create_dataset("", root=str(asset("cifar10")), split="val", transform=transform)
    images, labels = zip(*(dataset[i] for i in range(len(dataset))), strict=True)
    return torch.stack(images), torch.tensor(labels)


@torch.no_grad()
def answers(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return torch.cat([model(part) for part in images.split(500)])


def reference_vit() -> nn.Module:
    """The checkpoint in plain timm."""
    from functools import partial

    model = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=4, embed_dim=64, depth=4, num_heads=4, num_classes=10,
        norm_layer=partial(nn.LayerNorm, eps=1e-5),
    )  # fmt: skip
    path = asset("vit_cifar10_tiny") / "vit_tiny_cifar10.pth"
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def test_every_start_and_mapping_on_the_cifar10_vit(
    cifar10: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    images, labels = cifar10
    expected = answers(reference_vit(), images)
    assert int((expected.argmax(1) == labels).sum()) == 5697
    checkpoint = str(asset("vit_cifar10_tiny") / "vit_tiny_cifar10.pth")
    for mapping, start in itertools.product(MAPPINGS, STARTS):
        plan = write_plan(tmp_path, mapping, start)
        out = tmp_path / f"{mapping[:5]}-{start}"
        expand_checkpoint(checkpoint, plan, out, options=VIT)
        assert verify(out, source=checkpoint).compared_tensors == 56
        found = answers(load(out), images)
        hits = int((found.argmax(1) == labels).sum())
        print(f"{mapping} {start}: {hits / 100} %")
        if start in ("identity", None):
            assert torch.equal(found.argmax(1), expected.argmax(1))
            assert torch.equal(found, expected)
        else:
            assert hits > 1000  # better than guessing


def test_every_start_and_mapping_on_stories15m(tmp_path: Path) -> None:
    folder = asset("stories15m")
    base = LlamaForCausalLM.from_pretrained(folder).eval()
    tokens = torch.tensor([[1, 9038, 2501, 263, 931, 727, 471, 263, 2217, 7826]])
    with torch.no_grad():
        expected = base(tokens).logits
    for mapping, start in itertools.product(("interpolate", "stack"), STARTS):
        plan = write_plan(tmp_path, mapping, start, dim=16)
        out = tmp_path / f"{mapping}-{start}"
        expand_checkpoint(str(folder), plan, out)
        assert verify(out, source=str(folder)).compared_tensors == 56
        model = load(out)
        with torch.no_grad():
            assert torch.equal(model(tokens).logits, expected) == (start in ("identity", None))
        cached, plain = (
            model.generate(tokens, max_new_tokens=40, do_sample=False, use_cache=use_cache)
            for use_cache in (True, False)
        )
        assert torch.equal(cached, plain)
    tokenizer = AutoTokenizer.from_pretrained(out, config=model.config)
    print(tokenizer.decode(cached[0]))

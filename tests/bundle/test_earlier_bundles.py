"""Bundles of earlier versions open, verify and compute as they did when they were written."""

import json
import shutil
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file

from scalenet_cli import SourceOptions, expand_checkpoint, load, verify
from scalenet_cli.bundle.manifest import digest_content
from scalenet_cli.bundle.read import open_bundle

# Version 0.1.0, when a plan without `start` meant `start: copy`: a ViT of 2 blocks as 4.
WITHOUT_START = Path(__file__).parents[1] / "compat" / "vit_without_start"


def source_model() -> Any:
    """The model that the bundle was made from, by timm alone."""
    manifest = json.loads((WITHOUT_START / "manifest.json").read_text())
    arguments = manifest["source"]["arguments"]
    model = timm.create_model(manifest["source"]["architecture"], **arguments).eval()
    model.load_state_dict(load_file(WITHOUT_START / "model.safetensors"))
    return model


def test_a_bundle_whose_plan_leaves_start_out_is_still_a_copy() -> None:
    assert "start" not in (WITHOUT_START / "plan.yaml").read_text()
    verify(WITHOUT_START)
    scaled, source = load(WITHOUT_START), source_model()
    assert not any(key.endswith(".gate") for key, _ in scaled.named_parameters())
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        answer = scaled(images)
        assert not torch.equal(answer, source(images))
        source.blocks = torch.nn.Sequential(*(source.blocks[index] for index in (0, 0, 1, 1)))
        assert torch.equal(answer, source(images))


def test_a_manifest_whose_plan_leaves_start_out_means_copy(tmp_path: Path) -> None:
    bundle = shutil.copytree(WITHOUT_START, tmp_path / "bundle")
    content = json.loads((bundle / "manifest.json").read_text())
    del content["plan"]["start"]
    content["digest"] = digest_content(content)
    (bundle / "manifest.json").write_text(json.dumps(content))
    assert open_bundle(bundle).manifest.plan.start == "copy"
    load(bundle)


def test_a_copy_start_by_name_writes_what_the_default_wrote(tmp_path: Path) -> None:

    plan = tmp_path / "plan.yaml"
    plan.write_text((WITHOUT_START / "plan.yaml").read_text() + "start: copy\n")
    old = open_bundle(WITHOUT_START).manifest
    options = SourceOptions(model_kwargs=old.source.arguments, random_weights=True)
    expand_checkpoint("timm:vit_tiny_patch16_224", plan, tmp_path / "new", options=options)
    new = open_bundle(tmp_path / "new").manifest
    for role in ("base", "instances"):
        assert new.tensors(role) == old.tensors(role)
    assert (new.plan, new.ties, new.layout) == (old.plan, old.ties, old.layout)
    assert (new.parameters, new.flops) == (old.parameters, old.flops)

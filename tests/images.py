"""Small folders of images of every kind, and tiny classifiers to run on them."""

import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from scalenet_cli.families.architecture import Architecture
from scalenet_cli.families.timm_models import create_timm
from tests.models import ARCHITECTURES

# What command lines add, because shapes do not show it.
OPTIONS = {
    "vit": ("--model-kwargs", "num_heads=2"),
    "swin": ("--model-kwargs", "img_size=32"),
}


def write_images(root: Path, classes: Sequence[str], count: int, *, seed: int = 0) -> Path:
    """``count`` images, dealt to class folders in turn: every mode, format and shape in turn."""
    random = np.random.default_rng(seed)
    for index in range(count):
        folder = root / classes[index % len(classes)]
        folder.mkdir(parents=True, exist_ok=True)
        image, suffix = _image(random, index)
        image.save(folder / f"{index:03d}.{suffix}")
    return root


def _image(random: np.random.Generator, index: int) -> tuple[Image.Image, str]:
    height, width = ((16, 16), (20, 33), (41, 17), (12, 12))[index % 4]
    pixels = random.integers(0, 256, (height, width, 4), dtype=np.uint8)
    rgb, grey = pixels[..., :3], pixels[..., 0]
    wide = grey.astype(np.uint16) * 257
    match index % 6:
        case 0:
            return Image.fromarray(rgb), "png"
        case 1:
            return Image.fromarray(rgb), "jpg"
        case 2:
            return Image.fromarray(grey), "png"
        case 3:
            return Image.fromarray(pixels, "RGBA"), "png"
        case 4:
            return Image.fromarray(wide), "png"
        case _:
            return Image.fromarray(rgb).convert("P"), "png"


def write_tar(path: Path, folder: Path) -> Path:
    """The files of a folder in a tar, under the same names."""
    with tarfile.open(path, "w") as tar:
        for file in sorted(folder.rglob("*.*")):
            tar.add(file, arcname=str(file.relative_to(folder)))
    return path


def write_classifier(
    folder: Path, name: str = "vit", num_classes: int = 5
) -> tuple[Path, nn.Module]:
    """A tiny model of a family with random weights: its checkpoint, and itself in plain timm."""
    kind = ARCHITECTURES[name]
    arguments: dict[str, Any] = {**kind.arguments, "num_classes": num_classes}
    torch.manual_seed(7)
    model = create_timm(Architecture(kind.family, kind.name, arguments)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    path = folder / f"{name}{num_classes}.safetensors"
    save_file({key: value.contiguous() for key, value in model.named_parameters()}, path)
    return path, model


def write_labelled(folder: Path, labels: Any) -> Path:
    """A folder as timm's push_to_hf_hub writes it, with names of the five classes."""
    checkpoint, _ = write_classifier(folder)
    output = folder / "labelled"
    output.mkdir()
    checkpoint.rename(output / "model.safetensors")
    kind = ARCHITECTURES["vit"]
    config = {
        "architecture": kind.name,
        "num_classes": 5,
        "label_names": labels,
        "model_args": dict(kind.arguments),
    }
    (output / "config.json").write_text(json.dumps(config))
    return output

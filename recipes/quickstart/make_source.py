"""Makes the checkpoint that ``scalenet quickstart`` expands: a small ViT on Fashion-MNIST.

    python recipes/quickstart/make_source.py FASHION_MNIST OUT

FASHION_MNIST holds train/0..9/*.png and val/0..9/*.png (60,000 and 10,000 images of 28x28, MIT
licence, Zalando SE). OUT becomes a folder as timm publishes them: config.json, model.safetensors.
A plain timm loop: scalenet does not train yet. Seed 0, two threads.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

ARCHITECTURE = "vit_tiny_patch16_224"
MODEL_ARGS = {
    "img_size": 28,
    "patch_size": 4,
    "embed_dim": 64,
    "depth": 6,
    "num_heads": 4,
    "num_classes": 10,
}
MEAN, STD = 0.2860, 0.3530
EPOCHS, BATCH, PEAK_LR, WEIGHT_DECAY = 8, 256, 3e-3, 0.05


def read_split(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, 28, 28) in 0..1 and labels (N,)."""
    images, labels = [], []
    for path in sorted(folder.glob("*/*.png")):
        images.append(np.asarray(Image.open(path).convert("L")))
        labels.append(int(path.parent.name))
    return torch.tensor(np.stack(images)).float() / 255, torch.tensor(labels)


def to_input(images_NYX: torch.Tensor) -> torch.Tensor:
    """Normalised RGB, as timm's own pipeline makes it from a grey PNG."""
    return ((images_NYX - MEAN) / STD).unsqueeze(1).expand(-1, 3, -1, -1)


def augment(images_NYX: torch.Tensor) -> torch.Tensor:
    """Mirrors half of the images and shifts the batch by up to two pixels."""
    flip = torch.rand(len(images_NYX)) < 0.5
    images_NYX = torch.where(flip[:, None, None], images_NYX.flip(2), images_NYX)
    down, right = torch.randint(0, 5, (2,)).tolist()
    return F.pad(images_NYX, (2, 2, 2, 2))[:, down : down + 28, right : right + 28]


@torch.no_grad()
def accuracy(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Top-1 in per cent."""
    model.eval()
    hits = [
        (model(to_input(x)).argmax(1) == y).sum()
        for x, y in zip(images.split(1000), labels.split(1000), strict=True)
    ]
    model.train()
    return 100 * float(sum(hits)) / len(labels)


def main() -> None:
    """Trains, prints the curve, writes the folder."""
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    torch.manual_seed(0)
    torch.set_num_threads(2)
    images, labels = read_split(data / "train")
    val_images, val_labels = read_split(data / "val")
    model = timm.create_model(ARCHITECTURE, drop_path_rate=0.05, **MODEL_ARGS)
    steps = EPOCHS * (len(images) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=steps)
    started = time.time()
    for epoch in range(EPOCHS):
        for picked in torch.randperm(len(images)).split(BATCH):
            if len(picked) < BATCH:
                continue
            logits = model(to_input(augment(images[picked])))
            loss = F.cross_entropy(logits, labels[picked], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        top1 = accuracy(model, val_images, val_labels)
        print(f"epoch {epoch} loss {loss.item():.4f} top1 {top1:.2f} {time.time() - started:.0f}s")
    out.mkdir(parents=True, exist_ok=True)
    state = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    save_file(state, out / "model.safetensors")
    config = {
        "architecture": ARCHITECTURE,
        "num_classes": 10,
        "model_args": MODEL_ARGS,
        "pretrained_cfg": {
            "input_size": [3, 28, 28],
            "mean": [MEAN] * 3,
            "std": [STD] * 3,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "license": "mit",
            "description": f"Fashion-MNIST, top-1 {top1:.2f} % on its 10,000 test images",
        },
    }
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Packs the images that ``scalenet quickstart`` trains on: 3,000 and 2,000 of Fashion-MNIST.

    python recipes/quickstart/make_data.py FASHION_MNIST OUT

FASHION_MNIST holds train/0..9/*.png and val/0..9/*.png (60,000 and 10,000 images of 28x28, MIT
licence, Zalando SE). OUT gets train.tar and val.tar, which ``--data OUT`` opens as they are. Images
are evenly spaced over each class; the same input gives the same bytes.
"""

import io
import sys
import tarfile
from pathlib import Path

COUNTS = {"train": 3000, "val": 2000}


def pack(folder: Path, archive: Path, count: int) -> None:
    """Writes ``count`` images of a split, equally many of every class."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    share = count // len(classes)
    with tarfile.open(archive, "w", format=tarfile.USTAR_FORMAT) as out:
        for name in classes:
            images = sorted(name.glob("*.png"))
            for order in range(share):
                path = images[order * len(images) // share]
                data = path.read_bytes()
                entry = tarfile.TarInfo(f"{name.name}/{path.name}")
                entry.size = len(data)
                out.addfile(entry, io.BytesIO(data))


def main() -> None:
    """Packs both splits."""
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    for split, count in COUNTS.items():
        pack(source / split, out / f"{split}.tar", count)


if __name__ == "__main__":
    main()

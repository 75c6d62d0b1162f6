"""Which samples a split has, as a digest that does not depend on where the data lie."""

import hashlib

from scalenet_cli.training.run_folder import SplitRecord
from scalenet_cli.vision.splits import Split


def split_record(split: Split) -> SplitRecord:
    """Number and digest of a split's samples; no image is read."""
    digest = hashlib.sha256(repr(sorted(split.classes.items())).encode())
    targets = split.targets()
    if targets is not None:
        for index, target in enumerate(targets):
            name = split.name(index).removeprefix(split.place)
            digest.update(f"{name} {target}\n".encode(errors="surrogateescape"))
    return SplitRecord(num_samples=len(split), digest=digest.hexdigest())

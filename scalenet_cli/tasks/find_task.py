"""What a target's model is for: no weights are read and, where that is possible, no torch."""

from pathlib import Path
from typing import Literal, cast

from scalenet_cli.bundle.read import bundle_folder, is_bundle, read_manifest
from scalenet_cli.errors import CheckpointError
from scalenet_cli.families import FAMILIES
from scalenet_cli.families import family as find_family
from scalenet_cli.families.sources import HUB
from scalenet_cli.families.sources.folder import read_config

TargetTask = Literal["images", "language"]


def task_of(target: str) -> TargetTask:
    """``language`` for transformers decoders, ``images`` for all else, damaged targets included.

    Of ``hf:REPO`` the config is downloaded.

    Raises:
        BundleError: a bundle with a damaged manifest.
        DownloadFailed: the config of a repository could not be fetched.
    """
    folder = bundle_folder(Path(target))
    if is_bundle(folder):
        name = read_manifest(folder).source.family
        # What a manifest claims is checked where the model is built.
        return cast(TargetTask, find_family(name).task) if name in FAMILIES else "images"
    if target.startswith(HUB):
        from scalenet_cli.families.sources.hub import fetch_repository

        folder = fetch_repository(target.removeprefix(HUB), weights=False)
    try:
        config = read_config(folder)
    except (CheckpointError, OSError, ValueError):
        return "images"
    return "images" if "architecture" in config else "language"

"""What a target's model is for, found without its weights."""

from pathlib import Path

from scalenet_cli.bundle.read import bundle_folder, is_bundle, read_manifest
from scalenet_cli.errors import CheckpointError
from scalenet_cli.families import FAMILIES, families_from_the_end
from scalenet_cli.families import family as find_family
from scalenet_cli.families.sources import HUB
from scalenet_cli.families.sources.folder import read_config
from scalenet_cli.plan.training import DEFAULT_TASK


def task_of(target: str) -> str:
    """The task of a bundle's family, or of the family that reads a folder's config.

    A file of tensors and ``timm:NAME`` are image classifiers; so is whatever cannot be read: what
    is wrong with it is said where it is opened. Of ``hf:REPO`` the config is downloaded.

    Raises:
        BundleError: a bundle with a damaged manifest.
        DownloadFailed: the config of a repository could not be fetched.
    """
    folder = bundle_folder(Path(target))
    if is_bundle(folder):
        name = read_manifest(folder).source.family
        # What a manifest claims is checked where the model is built.
        return find_family(name).task if name in FAMILIES else DEFAULT_TASK
    if target.startswith(HUB):
        from scalenet_cli.families.sources.hub import fetch_repository

        folder = fetch_repository(target.removeprefix(HUB), weights=False)
    try:
        config = read_config(folder)
    except (CheckpointError, OSError, ValueError):
        return DEFAULT_TASK
    found = (family.task for family in families_from_the_end() if family.reads_config(config))
    return next(found, DEFAULT_TASK)

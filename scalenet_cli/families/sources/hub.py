"""``hf:REPO`` and ``timm:NAME``: the only references that reach the network."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from scalenet_cli.errors import DownloadFailed, UnknownArchitecture
from scalenet_cli.families.sources.carried import CARRIED
from scalenet_cli.families.sources.folder import has_weights

if TYPE_CHECKING:
    from collections.abc import Callable

_SMALL: Final = ("config.json", *CARRIED)


def fetch_repository(reference: str, *, weights: bool) -> Path:
    """The local folder of ``REPO`` or ``REPO@REVISION``; without weights, only its small files.

    The small files are the config and what is carried along, the tokenizer's among them.

    Raises:
        DownloadFailed: offline, no such repository, or no access.
    """
    from huggingface_hub import snapshot_download

    repository, _, revision = reference.partition("@")

    def fetch(*patterns: str) -> Path:
        return Path(
            snapshot_download(repository, revision=revision or None, allow_patterns=list(patterns))
        )

    if not weights:
        return _attempt(f"hf:{reference}", lambda: fetch(*_SMALL))
    safe = ("model*.safetensors", "model.safetensors.index.json")
    folder = _attempt(f"hf:{reference}", lambda: fetch(*_SMALL, *safe))
    if not has_weights(folder):
        pickles = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
        folder = _attempt(f"hf:{reference}", lambda: fetch(*_SMALL, *pickles))
    return folder


def fetch_timm_weights(name: str) -> Path:
    """The local file of timm's pretrained weights of ``NAME`` or ``NAME.TAG``.

    Raises:
        UnknownArchitecture: timm has no weights of that name.
        DownloadFailed: offline, or the file is gone.
    """
    import timm
    from huggingface_hub import hf_hub_download

    try:
        config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError:  # an unknown tag
        config = None
    if config is None or not config.hf_hub_id:
        raise UnknownArchitecture(
            f"timm has no downloadable weights for {name}",
            hint="give a checkpoint file with --arch, or add --random-weights",
        )
    repository = str(config.hf_hub_id)
    if repository.endswith("/"):
        repository += config.architecture + (f".{config.tag}" if config.tag else "")

    def fetch(filename: str) -> Path:
        return Path(hf_hub_download(repository, filename))

    wanted = config.hf_hub_filename or "model.safetensors"
    return _attempt(f"timm:{name}", lambda: fetch(wanted))


def _attempt(reference: str, fetch: "Callable[[], Path]") -> Path:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return fetch()
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DownloadFailed(
            f"{reference} could not be fetched: {first}",
            hint="check the name and the network; a local path works offline, and "
            "`timm:NAME --random-weights` needs no weights",
        ) from None

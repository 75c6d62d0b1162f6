"""A single file that appears whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scalenet_cli.errors import OutputUnwritable
from scalenet_cli.files.durable import fsync_path


@contextmanager
def staged_file(path: Path, *, failure: str = "writing failed") -> Iterator[Path]:
    """A sibling file to write; it takes the name when the block ends well.

    ``failure`` is what the error says before the system's reason.

    Raises:
        OutputUnwritable: a full disk, for instance.
    """
    staging: Path | None = None
    try:
        handle, name = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=".partial", dir=path.absolute().parent
        )
        os.close(handle)
        staging = Path(name)
        yield staging
        umask = os.umask(0)
        os.umask(umask)
        staging.chmod(0o666 & ~umask)
        fsync_path(staging)
        staging.replace(path)
    except OSError as error:
        raise OutputUnwritable(f"{failure}: {error.strerror or error}", where=str(path)) from None
    finally:
        if staging is not None:
            staging.unlink(missing_ok=True)

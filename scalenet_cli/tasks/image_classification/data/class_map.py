"""A class map: a text file with the name of one class per line; the line's number is its target."""

from pathlib import Path
from typing import Final

from scalenet_cli.errors import DataNotFound, DataUnreadable

_MAX_BYTES: Final = 64_000_000
_MAX_NAME: Final = 1000


def read_class_map(name: str, root: str) -> dict[str, int]:
    """Class name -> target, of a file as it is named or below the data's folder, as in timm.

    timm also reads pickles; this does not.

    Raises:
        DataNotFound: there is no such file.
        DataUnreadable: not such a text, or a name stands there twice.
    """
    path = next((p for p in (Path(name), Path(root) / name) if p.is_file()), None)
    if path is None:
        folder = Path(name).is_dir()
        raise DataNotFound(
            "the class map is a folder" if folder else "there is no such class map",
            where=name,
            hint="a .txt file with the name of one class per line",
        )
    lines = _text(path).removeprefix("\ufeff").rstrip().split("\n")
    names = [line.strip() for line in lines]
    found: dict[str, int] = {}
    for number, key in enumerate(names):
        if not key or key in found or len(key) > _MAX_NAME:
            problem = f"{key[:80]} a second time" if key else "nothing"
            raise DataUnreadable(
                f"line {number + 1} of the class map has {problem}",
                where=str(path),
                hint="one name per line: the first line is class 0",
            )
        found[key] = number
    return found


def _text(path: Path) -> str:
    problem = f"{path.suffix or 'without suffix'}, not .txt"
    try:
        if path.suffix.lower() == ".txt":
            if path.stat().st_size > _MAX_BYTES:
                problem = f"larger than {_MAX_BYTES:,} bytes"
            else:
                text = path.read_bytes().decode()
                if "\0" not in text:
                    return text
                problem = "no text"
    except UnicodeDecodeError:
        problem = "no UTF-8 text"
    raise DataUnreadable(
        f"the class map is {problem}",
        where=str(path),
        hint="write the name of one class per line into a .txt file; pickles are not read",
    )

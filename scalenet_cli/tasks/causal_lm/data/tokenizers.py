"""The tokenizer of a folder: no code of strangers, no network, and ids that the model has."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from scalenet_cli.errors import (
    ArchitectureMismatch,
    CheckpointIncomplete,
    CheckpointNotFound,
    CheckpointUnreadable,
    MissingExtra,
    install_hint,
)
from scalenet_cli.families.sources.tokenizer_files import MAX_TOKENIZER_BYTES, TOKENIZERS

_SETTINGS: Final = "tokenizer_config.json"
# Spaces, line ends, digits, letters of several bytes: what sentencepiece models differ in.
_PROBE: Final = " Once  upon a\ttime,\n\n 12 caf\u00e9s \u4e2d \U0001d11e  "
_SPACE: Final = "\u2581"
_BROKEN: Final = (
    OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, ImportError,
    ArithmeticError, AssertionError, RecursionError,
)  # fmt: skip


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a bundle or a Hugging Face folder, as transformers makes it.

    Of a sentencepiece model alone (``tokenizer.model``), it is Llama's: merges in the order of the
    model's scores and BOS in front, unless ``tokenizer_config.json`` says otherwise. AutoTokenizer
    would guess another one, which splits texts as no checkpoint was trained.

    Raises:
        CheckpointNotFound, CheckpointIncomplete: no folder, or no tokenizer in it.
        CheckpointUnreadable: its files are damaged, or need code that transformers does not have.
        MissingExtra: transformers or sentencepiece is not there.
    """
    kind = _check_files(folder)
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise _missing(error.name or "transformers", folder) from None
    auto: Any = transformers.AutoTokenizer
    try:
        if kind == "tokenizer.model":
            return _from_sentencepiece(folder)
        made = auto.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        if not isinstance(made, transformers.PreTrainedTokenizerBase):
            raise TypeError(f"{type(made).__name__} is several tokenizers")
        return made
    except ModuleNotFoundError as error:
        raise _missing(error.name or "sentencepiece", folder) from None
    # tokenizers raises a plain Exception for whatever it cannot read.
    except Exception as error:
        if type(error) is not Exception and not isinstance(error, _BROKEN):
            raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise CheckpointUnreadable(
            f"the tokenizer cannot be used: {first}",
            where=str(folder),
            hint="save it again with transformers' save_pretrained, or give --tokenizer FOLDER",
        ) from None


def encode_open(tokenizer: Any, text: str) -> list[int]:
    """Token ids without an EOS that the tokenizer adds itself: the text is to go on."""
    ids: list[int] = tokenizer.encode(text, verbose=False)
    if not ids or ids[-1] != tokenizer.eos_token_id:
        return ids
    own: list[int] = tokenizer.encode(text, add_special_tokens=False, verbose=False)
    return ids[:-1] if ids[-len(own) - 1 : -1] == own else ids


def check_vocabulary(tokenizer: Any, num_embeddings: int, where: str) -> None:
    """The tokenizer's own vocabulary has a row each in the embedding.

    More rows than tokens are padding, and common. Tokens that were added beyond the embedding are
    common too, and rarely met: :func:`check_ids` refuses the text that has one.

    Raises:
        ArchitectureMismatch: more tokens than rows, added ones not counted.
    """
    if tokenizer.vocab_size > num_embeddings:
        raise ArchitectureMismatch(
            f"the tokenizer has {tokenizer.vocab_size} tokens, but the model's embedding has "
            f"{num_embeddings} rows",
            where=where,
            hint="it is another model's tokenizer: --tokenizer FOLDER names the right one",
        )


def check_ids(tokenizer: Any, ids: Sequence[int], num_embeddings: int, where: str) -> None:
    """The embedding has a row for every token of a text.

    Raises:
        ArchitectureMismatch: one is beyond it.
    """
    highest = max(ids, default=-1)
    if highest >= num_embeddings:
        raise ArchitectureMismatch(
            f"the text has the token {highest} ({tokenizer.convert_ids_to_tokens(highest)!r}), "
            f"but the model's embedding has {num_embeddings} rows",
            where=where,
            hint="it is another model's tokenizer, or a token that was added later",
        )


def _check_files(folder: Path) -> str:
    if not folder.is_dir():
        raise CheckpointNotFound("there is no such folder of a tokenizer", where=str(folder))
    present = [name for name in TOKENIZERS if (folder / name).is_file()]
    if not present:
        raise CheckpointIncomplete(
            "the folder has no tokenizer",
            where=str(folder),
            hint="expand a folder that has one (tokenizer.json or tokenizer.model), or give "
            "--tokenizer FOLDER",
        )
    for name in (*present, _SETTINGS):
        size = (folder / name).stat().st_size if (folder / name).is_file() else 0
        if size > MAX_TOKENIZER_BYTES:
            raise CheckpointUnreadable(
                f"{name} has {size} bytes, more than {MAX_TOKENIZER_BYTES}", where=str(folder)
            )
    return present[0]


def _missing(package: str, folder: Path) -> MissingExtra:
    return MissingExtra(
        f"the tokenizer needs the package {package}",
        where=str(folder),
        hint=install_hint("language"),
    )


def _from_sentencepiece(folder: Path) -> Any:
    from sentencepiece import SentencePieceProcessor
    from tokenizers import normalizers
    from tokenizers.models import BPE
    from transformers import LlamaTokenizer
    from transformers.tokenization_utils_base import generate_merges

    path = folder / "tokenizer.model"
    processor = SentencePieceProcessor(model_file=str(path))
    pieces = [processor.id_to_piece(at) for at in range(processor.vocab_size())]
    vocabulary = {piece: at for at, piece in enumerate(pieces)}
    scores = {piece: processor.get_score(at) for at, piece in enumerate(pieces)}
    settings_path = folder / _SETTINGS
    settings = json.loads(settings_path.read_bytes()) if settings_path.is_file() else {}
    tokenizer: Any = LlamaTokenizer.from_pretrained(
        str(folder),
        local_files_only=True,
        add_bos_token=bool(settings.get("add_bos_token", processor.bos_id() >= 0)),
    )
    backend = tokenizer.backend_tokenizer
    backend.model = BPE(
        vocabulary, generate_merges(vocabulary, scores), fuse_unk=True, byte_fallback=True
    )
    # As in the tokenizer.json of Llama 2: transformers 5 leaves out the space before a space.
    space = normalizers.Replace(" ", _SPACE)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), space])
    backend.pre_tokenizer = None
    if tokenizer.encode(_PROBE, add_special_tokens=False) != processor.encode(_PROBE):
        raise ValueError("tokenizer.model is not of Llama's kind, and there is no tokenizer.json")
    return tokenizer

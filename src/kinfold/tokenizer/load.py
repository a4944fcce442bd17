"""Finding the tokenizer of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinfold.checkpoint.strict_json import read_json
from kinfold.errors import CheckpointError, TokenizerError
from kinfold.tokenizer.tokenizer import Tokenizer, require_tokenizers

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

FILE = "tokenizer.json"


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a checkpoint.

    Args:
        path: A folder with tokenizer.json, that file, a file beside it, or a GGUF file, which has its own.

    Raises:
        TokenizerError: There is none, or it is of a kind that cannot be read.
    """
    path = Path(path).expanduser()
    if path.is_file() and path.suffix not in (".json", ".safetensors"):
        return _from_gguf(path)
    folder = path if path.is_dir() else path.parent
    file = path if path.suffix == ".json" else folder / FILE
    if not file.is_file():
        raise TokenizerError(f"{path} has no {FILE}.", hint="Put the model's there, or name it in the card.")
    return _from_json(file)


def _from_json(file: Path) -> Tokenizer:
    tokenizers = require_tokenizers()
    try:
        backend = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises Exception itself
        raise TokenizerError(f"{file} is no tokenizer: {error}") from error
    configs = {}
    for name in ("config", "tokenizer_config", "generation_config"):
        beside = file.with_name(f"{name}.json")
        configs[name] = read_json(beside) if beside.is_file() else {}
    bos, eos = (_ids(backend, configs, f"{kind}_token") for kind in ("bos", "eos"))
    return Tokenizer(backend, bos[0] if bos else None, eos, configs["tokenizer_config"].get("chat_template"))


def _ids(backend: Backend, configs: Mapping[str, Mapping[str, Any]], token: str) -> tuple[int, ...]:
    """What a special token is: generation_config.json knows best, then tokenizer_config.json, then config.json."""
    for name in ("generation_config", "tokenizer_config", "config"):
        config = configs[name]
        value = config.get(f"{token}_id", config.get(token))
        if isinstance(value, Mapping):
            value = value.get("content")
        if isinstance(value, str):
            value = backend.token_to_id(value)
        if value is not None:
            return tuple(value) if isinstance(value, list) else (value,)
    return ()


def _from_gguf(path: Path) -> Tokenizer:
    from kinfold.checkpoint import open_checkpoint
    from kinfold.checkpoint.gguf import GgufCheckpoint
    from kinfold.tokenizer.gguf import tokenizer_from_metadata

    try:
        checkpoint = open_checkpoint(path)
    except CheckpointError as error:
        raise TokenizerError(f"{path} has no tokenizer that can be read: {error}") from error
    if not isinstance(checkpoint, GgufCheckpoint):
        raise TokenizerError(f"{path} has no tokenizer.")
    with checkpoint:
        return tokenizer_from_metadata(checkpoint.tokenizer_metadata, place=str(path))

"""Finding the tokenizer of a checkpoint."""

from __future__ import annotations

from pathlib import Path

from kinfold.errors import CheckpointError, TokenizerError
from kinfold.tokenizer.configs import chat_template, read_configs
from kinfold.tokenizer.tokenizer import Tokenizer, require_tokenizers

FILE = "tokenizer.json"


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a checkpoint.

    Args:
        path: A folder with tokenizer.json, that file, a safetensors file beside it, or a GGUF file, which has its own.

    Raises:
        TokenizerError: There is none, it cannot be read, or the `tokenizers` package is missing.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise TokenizerError(f"{path} does not exist.")
    if path.is_file() and path.suffix not in (".json", ".safetensors"):
        return _from_gguf(path)
    file = path if path.suffix == ".json" else (path if path.is_dir() else path.parent) / FILE
    if not file.is_file():
        raise TokenizerError(
            f"{path} has no {FILE}.",
            hint="Put the model's there, or name it in the card. transformers' AutoTokenizer makes one out of others.",
        )
    return _from_json(file)


def _from_json(file: Path) -> Tokenizer:
    tokenizers = require_tokenizers()
    try:
        backend = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises Exception itself
        raise TokenizerError(f"{file} is no tokenizer: {error}") from error
    configs = read_configs(file.parent)
    template = chat_template(file.parent, configs.tokenizer_config)
    bos, pad, unk = (configs.token_id(kind, backend) for kind in ("bos", "pad", "unk"))
    start = configs.decoder_start_token_id(backend)
    return Tokenizer(backend, bos, configs.eos_token_ids(backend), template, pad, unk, start)


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

"""Writing down what was trained: weights, config, tokenizer and a card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kinfold.assets import AssetCard
from kinfold.checkpoint import Checkpoint, open_checkpoint
from kinfold.checkpoint.names import GENERATION_CONFIG
from kinfold.conversion.companions import companions
from kinfold.converter import NATIVE
from kinfold.errors import CheckpointError
from kinfold.loader import PreparedModel
from kinfold.parallel.gangs import Gang
from kinfold.tokenizer import Tokenizer


def save_model(
    folder: Path,
    model: nn.Module,
    *,
    start: PreparedModel,
    tokenizer_path: Path,
    dtype: torch.dtype,
    gangs: Mapping[str, Gang] | None = None,
) -> None:
    """Write a model in its family's own layout, as `scaffold convert` would; the folder is there complete or not.

    Args:
        folder: The folder to make.
        model: The model, or what this rank has of it; on any device.
        start: What it was before it was trained, with its card.
        tokenizer_path: The file or folder of its tokenizer, whose files are copied.
        dtype: What floating weights are cast to.
        gangs: The ranks, if there are several.

    Raises:
        CheckpointError: The folder exists, or cannot be written.
        TrainingError: There are weights that are no numbers, or that the dtype does not hold.
    """
    from kinfold.parallel.export import save_sharded_model

    files = {**_beside(start.checkpoint.path, only=GENERATION_CONFIG), **_tokenizer_files(tokenizer_path)}
    save_sharded_model(model, folder, start=start, layout=NATIVE, dtype=dtype, files=files, gangs=gangs)


def fresh_start(card: AssetCard, config: Any, model: nn.Module, tokenizer: Tokenizer) -> PreparedModel:
    """What a model that was trained from scratch was before: no checkpoint, but the special tokens of its tokenizer."""
    info = tokenizer.vocab_info
    tokens = {"bos_token_id": info.bos_idx, "eos_token_id": info.eos_idx, "pad_token_id": info.pad_idx}
    stated = {name: number for name, number in tokens.items() if number is not None}
    no_conversion: Any = None  # there is nothing to convert, and nobody asks
    return PreparedModel(card, config, model, _NoTensors(card.tokenizer or card.source, stated), no_conversion)


def _tokenizer_files(path: Path) -> dict[str, bytes]:
    """The files of a tokenizer: those in a folder or around a file, or made of what a GGUF file has in it."""
    if path.is_dir() or path.suffix == ".safetensors":
        return _beside(path)
    if path.suffix == ".json":
        return {**_beside(path), "tokenizer.json": path.read_bytes()}
    with open_checkpoint(path) as checkpoint:
        return companions(checkpoint)


def _beside(path: Path, *, only: str | None = None) -> dict[str, bytes]:
    """The files that go with a checkpoint and lie in its folder, or beside it; or that one of them, if it is there."""
    files = companions(_NoTensors(path, {}))
    return {name: data for name, data in files.items() if only in (None, name)}


class _NoTensors(Checkpoint):
    """A place for a tokenizer and a config, where a checkpoint is asked for."""

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self.path, self.layout, self.manifest, self.config = path, "none", {}, config

    def tensor(self, name: str, *, mmap: bool = True) -> Tensor:
        raise CheckpointError(f"{self.path} has no tensor {name!r}.")

    def close(self) -> None:
        pass

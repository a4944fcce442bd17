"""Writing down what was trained: weights, config, tokenizer and a card."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kinfold.assets import AssetCard
from kinfold.checkpoint import Checkpoint, Extent, Manifest, TensorInfo, open_checkpoint
from kinfold.checkpoint.names import GENERATION_CONFIG
from kinfold.checkpoint.write import plan_shards, write_safetensors, write_synced
from kinfold.conversion.companions import CONFIG, companions, config_file
from kinfold.converter import NATIVE
from kinfold.durable import put_in_place
from kinfold.errors import CheckpointError, TrainingError
from kinfold.loader import PreparedModel
from kinfold.tokenizer import Tokenizer

MAX_SHARD_SIZE = "5GB"


def save_model(
    folder: Path, model: nn.Module, *, start: PreparedModel, tokenizer_path: Path, dtype: torch.dtype
) -> None:
    """Write a model in its family's own layout, as `scaffold convert` would; the folder is there complete or not.

    Args:
        folder: The folder to make.
        model: The model; on any device.
        start: What it was before it was trained, with its card.
        tokenizer_path: The file or folder of its tokenizer, whose files are copied.
        dtype: What floating weights are cast to.

    Raises:
        TrainingError: There are weights that are no numbers, or that the dtype does not hold.
    """
    weights = _Weights(model.state_dict(), dtype)
    name = str(dtype).removeprefix("torch.")
    with _made_whole(folder) as staged:
        write_safetensors(staged, plan_shards(weights.manifest, MAX_SHARD_SIZE), weights)
        files = {**_beside(start.checkpoint.path, only=GENERATION_CONFIG), **_tokenizer_files(tokenizer_path)}
        files[CONFIG] = config_file(start, to=NATIVE, dtype=name, cast=True)
        for file, data in files.items():
            write_synced(staged / file, data)


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


class _Weights:
    """A state dict as what can be written, floating tensors cast to a dtype."""

    def __init__(self, state_dict: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        self._tensors = state_dict
        self._dtype = dtype
        self.manifest: Manifest = {
            name: TensorInfo.of(tensor.to("meta", dtype) if tensor.is_floating_point() else tensor)
            for name, tensor in state_dict.items()
        }

    def tensor(self, name: str) -> Tensor:
        tensor = self._tensors[name].detach()
        if not tensor.is_floating_point():
            return tensor.cpu()
        cast = tensor.to("cpu", self._dtype)
        if not bool(torch.isfinite(cast).all()):
            raise TrainingError(
                f"{name} has values that are no numbers, or that {self._dtype} does not hold.",
                hint="If training went well, choose another `save_dtype`.",
            )
        return cast

    def extent(self, name: str) -> Extent | None:
        return None


@contextmanager
def _made_whole(folder: Path) -> Iterator[Path]:
    """A folder to fill, which gets its name when the block ends without an error."""
    staged = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    yield staged
    put_in_place(staged, folder)

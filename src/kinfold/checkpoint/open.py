"""Opening a checkpoint, whatever its kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kinfold.checkpoint.base import Checkpoint
from kinfold.checkpoint.names import (
    CONFIGS,
    DCP_METADATA,
    INDEX,
    META_RANKS,
    PICKLE_INDEX,
    PICKLE_SINGLE,
    PICKLE_SUFFIXES,
    REFERENCE,
    SINGLE,
)
from kinfold.checkpoint.strict_json import read_json
from kinfold.errors import CheckpointError, UnsupportedError

ACCEPTED = (
    "a folder with safetensors or pytorch_model.bin (one file, or shards and an index), Meta's consolidated.00.pth, or "
    "a checkpoint of torch.distributed; or one file: safetensors, GGUF, or torch's .pt, .pth, .bin or .ckpt"
)


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a checkpoint, reading only headers.

    Args:
        path: A folder with config.json and weights, or a file of weights. In a folder safetensors go before pickles,
            an index before a single file, and the usual names (`model.safetensors`) before a single other file.

    Raises:
        CheckpointError: It is none of these, or is damaged; every fault is listed.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return _open_folder(path)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist.", hint=f"A checkpoint is {ACCEPTED}.")
    if not path.is_file():
        raise CheckpointError(f"{path} is neither a file nor a folder.", hint=f"A checkpoint is {ACCEPTED}.")
    with path.open("rb") as file:
        magic = file.read(4)
    if magic == b"GGUF":
        from kinfold.checkpoint.gguf import GgufCheckpoint

        return GgufCheckpoint(path)
    if path.suffix == ".safetensors":
        return _safetensors(path, [path])
    if path.suffix in PICKLE_SUFFIXES:
        return _pickles(path, [path])
    raise CheckpointError(f"{path} is no checkpoint that can be read.", hint=f"A checkpoint is {ACCEPTED}.")


def _open_folder(folder: Path) -> Checkpoint:
    if (folder / INDEX).exists():
        return _safetensors(folder, *_indexed(folder / INDEX))
    if (folder / SINGLE).exists():
        return _safetensors(folder, [folder / SINGLE])
    others = sorted(path for path in folder.glob("*.safetensors") if path.name != REFERENCE)
    if len(others) == 1:
        return _safetensors(folder, others)
    if (folder / PICKLE_INDEX).exists():
        return _pickles(folder, *_indexed(folder / PICKLE_INDEX))
    if (folder / PICKLE_SINGLE).exists():
        return _pickles(folder, [folder / PICKLE_SINGLE])
    if ranks := sorted(folder.glob(META_RANKS)):
        return _pickles(folder, ranks)
    if (folder / DCP_METADATA).exists():
        from kinfold.checkpoint.dcp import DcpCheckpoint

        return DcpCheckpoint(folder, config=_read_config(folder))
    found = f"{len(others)} safetensors files and no {INDEX}" if others else "no safetensors file"
    raise CheckpointError(f"{folder} has {found}.", hint=f"A checkpoint is {ACCEPTED}.")


def _safetensors(path: Path, files: list[Path], listed: Mapping[str, Path] | None = None) -> Checkpoint:
    from kinfold.checkpoint.safetensors import SafetensorsCheckpoint

    return SafetensorsCheckpoint(path, files, config=_read_config(path), listed=listed)


def _pickles(path: Path, files: list[Path], listed: Mapping[str, Path] | None = None) -> Checkpoint:
    from kinfold.checkpoint.pickles import PickleCheckpoint

    ranks = sorted(files[0].parent.glob(META_RANKS))
    if files[0] in ranks and len(ranks) > 1:
        raise UnsupportedError(
            f"{path} is split over {len(ranks)} ranks, each of which has a part of every tensor:",
            faults=[rank.name for rank in ranks],
            hint="Join them first, or take the checkpoint in Hugging Face's layout.",
        )
    return PickleCheckpoint(path, files, config=_read_config(path), listed=listed)


def _indexed(index: Path) -> tuple[list[Path], Mapping[str, Path]]:
    from kinfold.checkpoint.sharded import read_index

    return read_index(index)


def _read_config(path: Path) -> dict[str, Any]:
    """The config in a folder, or beside a file."""
    folder = path if path.is_dir() else path.parent
    file = next((folder / name for name in CONFIGS if (folder / name).exists()), None)
    if file is None:
        return {}
    config = read_json(file)
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} holds no table.")
    return config

"""Opening a checkpoint, whatever its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kinfold.checkpoint.base import Checkpoint
from kinfold.checkpoint.strict_json import read_json
from kinfold.errors import CheckpointError

ACCEPTED = "a folder with safetensors (one file, or shards and an index), a safetensors file, or a GGUF file"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
REFERENCE = "reference.safetensors"


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a checkpoint, reading only headers.

    Args:
        path: A folder with config.json and safetensors, a safetensors file, or a GGUF file. In a folder the index
            goes before `model.safetensors`, and that before a single other safetensors file.

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
        from kinfold.checkpoint.safetensors import SafetensorsCheckpoint

        return SafetensorsCheckpoint(path, [path], config=_read_config(path.parent))
    raise CheckpointError(f"{path} is no checkpoint that can be read.", hint=f"A checkpoint is {ACCEPTED}.")


def _open_folder(folder: Path) -> Checkpoint:
    from kinfold.checkpoint.safetensors import SafetensorsCheckpoint
    from kinfold.checkpoint.sharded import read_index

    config = _read_config(folder)
    if (folder / INDEX).exists():
        shards, listed = read_index(folder / INDEX)
        return SafetensorsCheckpoint(folder, shards, config=config, listed=listed)
    if (folder / SINGLE).exists():
        return SafetensorsCheckpoint(folder, [folder / SINGLE], config=config)
    others = sorted(path for path in folder.glob("*.safetensors") if path.name != REFERENCE)
    if len(others) == 1:
        return SafetensorsCheckpoint(folder, others, config=config)
    found = f"{len(others)} safetensors files and no {INDEX}" if others else "no safetensors file"
    raise CheckpointError(f"{folder} has {found}.", hint=f"A checkpoint is {ACCEPTED}.")


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.exists():
        return {}
    config = read_json(path)
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} holds no table.")
    return config

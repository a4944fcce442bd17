"""The index of a checkpoint in several safetensors files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kinfold.checkpoint.strict_json import read_json
from kinfold.errors import CheckpointError


def read_index(path: Path) -> tuple[list[Path], Mapping[str, Path]]:
    """The shards that an index names, in order, and the shard of each tensor.

    Raises:
        CheckpointError: Lists shards that are missing or lie outside the folder of the index.
    """
    index = read_json(path)
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict) or not names or not all(isinstance(shard, str) for shard in names.values()):
        raise CheckpointError(f"{path} has no `weight_map` from tensors to files.")
    faults = []
    for shard in dict.fromkeys(names.values()):
        # Judged by the name, not by where a link leads: the Hugging Face cache links each file to its blob.
        if Path(shard).name != shard or shard in ("", ".", ".."):
            faults.append(f"{shard!r} is no name of a file in the folder")
        elif not (path.parent / shard).exists():
            faults.append(f"{shard!r} is missing")
    if faults:
        raise CheckpointError(f"{path} names files that cannot be used:", faults=faults)
    shards = {shard: path.parent / shard for shard in dict.fromkeys(names.values())}
    return list(shards.values()), {name: shards[shard] for name, shard in names.items()}

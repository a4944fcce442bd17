"""Checkpoints of torch.distributed.checkpoint (DCP), read and written by torch itself, in one process.

Such a folder has `.metadata`, which is a pickle that torch loads without any guard, and files with the tensors, each
tensor in one chunk or several: those of the ranks that wrote it. Any part of a tensor is read from the chunks that it
lies in, so that other ranks, or one process, may read what some have written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from kinfold.checkpoint.base import Block, Checkpoint, Readable
from kinfold.checkpoint.dcp_torch import BlockPlanner, DcpReader, cause_of, without_group
from kinfold.checkpoint.manifest import ITEMSIZES, Manifest, TensorInfo
from kinfold.checkpoint.nested import find_state_dict
from kinfold.checkpoint.shards import fill_files
from kinfold.errors import CheckpointError, KinfoldError, UnsupportedError, nearest


class DcpCheckpoint(Checkpoint):
    """A folder of torch.distributed.checkpoint.

    The state dict is found in what was saved around it (`find_state_dict`). A tensor is put together from its chunks
    when it is asked for, so that for a moment there are two copies of it (of one chunk, where there are several).

    Args:
        folder: The folder.
        config: What config.json holds.

    Raises:
        CheckpointError: The metadata are damaged or hostile, or files are missing; lists every fault.
    """

    layout = "dcp"

    def __init__(self, folder: Path, *, config: Mapping[str, Any]) -> None:
        self.path = folder
        self.config = config
        self._reader = DcpReader(folder)
        known: metadata.Metadata = self._reader.read_metadata()
        stored = known.state_dict_metadata
        self._keys = find_state_dict(
            _nested(known), lambda key: _info(stored.get(key)) if isinstance(key, _Key) else None, place=folder
        )
        infos = {name: _info(stored[key]) for name, key in self._keys.items()}
        self.manifest = {name: info for name, info in infos.items() if info is not None}
        unknown = [
            f"tensor {name}: {i.dtype} is not read" for name, i in self.manifest.items() if i.dtype not in ITEMSIZES
        ]
        if unknown:
            raise UnsupportedError(f"{folder} holds what is not understood:", faults=unknown)
        # What no chunk covers would keep the values that happen to be in memory.
        if gaps := [name for name, key in self._keys.items() if not _is_covered(stored[key])]:
            faults = [f"tensor {name}: its chunks do not make up {self.manifest[name].shape}" for name in gaps]
            raise CheckpointError(f"{folder} is damaged:", faults=faults)

    def tensor(self, name: str, *, mmap: bool = True) -> Tensor:
        return self.block(name, tuple(map(range, self._info(name).shape)))

    def block(self, name: str, block: Block) -> Tensor:
        """Read a block of one tensor into fresh memory, from no other chunks than those it lies in."""
        read = torch.empty([len(positions) for positions in block], dtype=getattr(torch, self._info(name).dtype))
        key = str(self._keys[name])
        planner = BlockPlanner(key, [positions.start for positions in block], read)
        try:
            without_group(load, {key: read}, storage_reader=self._reader, planner=planner)
        except (Exception, CheckpointException) as error:  # what torch meets in a damaged file may be anything
            raise CheckpointError(f"{self.path}: tensor {name} cannot be read: {cause_of(error)}") from error
        return read

    def _info(self, name: str) -> TensorInfo:
        if name not in self._keys:
            raise CheckpointError(f"{self.path} has no tensor {name!r}.", hint=nearest(name, self._keys))
        return self.manifest[name]

    def close(self) -> None:
        """Nothing is kept open."""


def write_dcp(
    folder: Path, source: Readable, *, max_file_size: int, wrote: Callable[[int], None] | None = None
) -> None:
    """Write a folder of torch.distributed.checkpoint, one tensor at a time.

    torch writes and syncs one file after the other, and `.metadata` last. What was written before is written anew. It
    lets go of the tensors of a file, which it holds copies of, only when the file is complete.

    Args:
        folder: The folder; made if it is missing.
        source: What to write.
        max_file_size: How many bytes of tensors a file may have, which are then held in memory; a tensor that is
            larger has a file of its own.
        wrote: Called with the bytes of each tensor as it is fetched.

    Raises:
        CheckpointError: torch could not write it.
    """
    placeholders = {
        name: torch.empty(info.shape, dtype=getattr(torch, info.dtype), device="meta")
        for name, info in source.manifest.items()
    }
    planner = _LazySavePlanner(source, wrote)
    try:
        without_group(
            save, placeholders, storage_writer=_Writer(folder, max_file_size, source.manifest), planner=planner
        )
    except CheckpointException as error:
        cause = cause_of(error)
        if isinstance(cause, KinfoldError | OSError):
            raise cause from error
        raise CheckpointError(f"{folder} could not be written: {cause}") from error


class _Writer(filesystem.FileSystemWriter):
    """Torch's writer, called anew for every file: it keeps the tensors of one call until the end of it."""

    def __init__(self, folder: Path, max_file_size: int, manifest: Manifest) -> None:
        super().__init__(folder, overwrite=True)
        self._max_file_size = max_file_size
        self._manifest = manifest

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        results: list[WriteResult] = []
        files = fill_files(plan.items, lambda item: self._manifest[item.index.fqn].nbytes, self._max_file_size)
        for number, items in enumerate(files):
            prefix = type(plan.storage_data)(f"{plan.storage_data.prefix}{number}_")
            results += super().write_data(replace(plan, items=items, storage_data=prefix), planner).wait()
        future: Future[list[WriteResult]] = Future()
        future.set_result(results)
        return future


class _LazySavePlanner(DefaultSavePlanner):
    """Plans with placeholders, and fetches each tensor when it is written."""

    def __init__(self, source: Readable, wrote: Callable[[int], None] | None) -> None:
        super().__init__()
        self._source = source
        self._wrote = wrote

    def lookup_object(self, index: metadata.MetadataIndex) -> Tensor:
        tensor = self._source.tensor(index.fqn)
        if self._wrote is not None:
            self._wrote(tensor.nbytes)
        return tensor


class _Key(str):
    """The name of an entry of the metadata."""


def _nested(known: metadata.Metadata) -> dict[Any, Any]:
    """What was saved, as it was nested, with the names of its entries in place of values."""
    tree: dict[Any, Any] = {}
    paths = known.planner_data or {}
    for key in known.state_dict_metadata:
        *folders, leaf = paths.get(key, (key,))
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = _Key(key) if isinstance(known.state_dict_metadata[key], metadata.TensorStorageMetadata) else ...
    return tree


def _info(stored: Any) -> TensorInfo | None:
    if not isinstance(stored, metadata.TensorStorageMetadata):
        return None
    dtype = str(stored.properties.dtype).removeprefix("torch.")
    return TensorInfo(tuple(stored.size), dtype, dtype)


def _is_covered(stored: Any) -> bool:
    """Whether the chunks of a tensor fill it."""
    starts = {tuple(chunk.offsets) for chunk in stored.chunks}
    inside = all(
        start >= 0 and start + size <= whole
        for chunk in stored.chunks
        for start, size, whole in zip(chunk.offsets, chunk.sizes, stored.size, strict=True)
    )
    return (
        inside and len(starts) == len(stored.chunks) and sum(prod(c.sizes) for c in stored.chunks) == prod(stored.size)
    )

"""What torch.distributed.checkpoint (DCP) is called through: its metadata read with a guard, and no process group."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.planner import LoadPlan
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from kinfold.checkpoint.manifest import ITEMSIZES
from kinfold.checkpoint.names import DCP_METADATA
from kinfold.errors import CheckpointError

_PATHS: Mapping[str, type] = {
    "PosixPath": PurePosixPath, "PurePosixPath": PurePosixPath, "WindowsPath": PureWindowsPath,
    "PureWindowsPath": PureWindowsPath,
}  # fmt: skip
_CLASSES: Mapping[tuple[str, str], Any] = {
    **{
        (metadata.__name__, name): getattr(metadata, name)
        for name in (
            "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta",
            "TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
        )
    },
    (filesystem.__name__, "_StorageInfo"): filesystem._StorageInfo,
    ("collections", "OrderedDict"): dict,
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): torch.serialization._get_layout,
    **{(module, name): kind for module in ("pathlib", "pathlib._local") for name, kind in _PATHS.items()},
    **{("torch", name): getattr(torch, name) for name in ITEMSIZES},
}  # fmt: skip
"""Everything that a `.metadata` of torch's names, by module and name."""


class DcpReader(filesystem.FileSystemReader):
    """Torch's reader, with a guard around the metadata, which are read once."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._metadata: metadata.Metadata | None = None

    def read_metadata(self, *args: Any, **kwargs: Any) -> metadata.Metadata:
        if self._metadata is None:
            self._metadata = _read_metadata(Path(self.path))
        return self._metadata


class BlockPlanner(DefaultLoadPlanner):
    """Plans what a block of one tensor is read from.

    Args:
        key: The tensor, as the metadata call it.
        start: Where the block begins, along each dimension.
        into: The memory of the block.
    """

    def __init__(self, key: str, start: Sequence[int], into: Tensor) -> None:
        super().__init__()
        self._key = key
        self._chunk = metadata.ChunkStorageMetadata(torch.Size(start), into.shape)
        self._into = into

    def create_local_plan(self) -> LoadPlan:
        known: Any = self.metadata
        return LoadPlan(
            create_read_items_for_chunk_list(self._key, known.state_dict_metadata[self._key], [self._chunk])
        )

    def lookup_tensor(self, index: metadata.MetadataIndex) -> Tensor:
        return self._into


class _Unpickler(pickle.Unpickler):
    """Makes nothing but what torch puts into its metadata."""

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) not in _CLASSES:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which may run code")
        return _CLASSES[module, name]


def _read_metadata(folder: Path) -> metadata.Metadata:
    path = folder / DCP_METADATA
    if not path.is_file():
        raise CheckpointError(f"{path} is no regular file.")
    try:
        with path.open("rb") as file:
            known = _Unpickler(file).load()
    except Exception as error:  # what an unpickler meets in a hostile file may raise anything
        raise CheckpointError(f"{path} is not read: {error}") from error
    if not isinstance(known, metadata.Metadata) or not isinstance(known.storage_data, dict):
        raise CheckpointError(f"{path} does not hold the metadata of a checkpoint.")
    faults = []
    for file in sorted({str(info.relative_path) for info in known.storage_data.values()}):
        if Path(file).name != file:
            faults.append(f"{file!r} is no name of a file in the folder")
        elif not (folder / file).is_file():
            faults.append(f"{file!r} is missing")
    if faults:
        raise CheckpointError(f"{path} names files that cannot be used:", faults=faults)
    if getattr(known, "storage_meta", None) is None:
        known.storage_meta = metadata.StorageMeta()
    return known


def cause_of(error: BaseException) -> BaseException:
    """What went wrong in what torch calls the failure of a rank."""
    failures = list(error.failures.values()) if isinstance(error, CheckpointException) else []
    return failures[0][0] if failures else error


def without_group(call: Any, *arguments: Any, **options: Any) -> None:
    """Call something of DCP's without a process group, and without its warning that there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call(*arguments, no_dist=True, **options)

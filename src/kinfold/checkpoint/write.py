"""Writing checkpoints of safetensors files, one tensor at a time.

The shards follow from names, shapes and dtypes alone, so that headers are written before any tensor is read. A tensor
that lies in a file just as it is to be is copied there by the kernel; of any other, its memory is written as it lies.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from kinfold.checkpoint.base import Extent, Readable
from kinfold.checkpoint.header import DTYPES
from kinfold.checkpoint.manifest import ITEMSIZES, Manifest, TensorInfo
from kinfold.checkpoint.names import INDEX, SINGLE
from kinfold.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

Wrote = Callable[[int], None]
"""Called with the number of bytes that have been written since the last call."""

_NAMES: Mapping[str, str] = {dtype: name for name, dtype in DTYPES.items()}
_UNITS: Mapping[str, int] = {
    "": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30,
}  # fmt: skip
_PIECE = 64 * 2**20
_SYNC_EVERY = 256 * 2**20


@dataclass(frozen=True)
class Shard:
    """One file.

    Attributes:
        file: Its name.
        manifest: Its tensors in the order of the file: those of wide values first, so that all are aligned.
    """

    file: str
    manifest: Manifest

    @cached_property
    def header(self) -> bytes:
        """What stands before the tensors, as the safetensors package writes it: a multiple of 8 bytes."""
        entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, info in self.manifest.items():
            start, end = end, end + info.nbytes
            entries[name] = {"dtype": _NAMES[info.dtype], "shape": list(info.shape), "data_offsets": [start, end]}
        text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    @property
    def nbytes(self) -> int:
        """The bytes of its tensors."""
        return sum(info.nbytes for info in self.manifest.values())


def parse_size(size: int | str) -> int:
    """A number of bytes, such as 5000000000, "5GB" or "200 MiB".

    Raises:
        CheckpointError: It is none, or not above 0.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(size))
    if not found or found[2].upper() not in _UNITS or (count := int(float(found[1]) * _UNITS[found[2].upper()])) < 1:
        raise CheckpointError(
            f"{size!r} is no size of a file.", hint='Say it so: "5GB", "200MB", or a number of bytes.'
        )
    return count


def plan_shards(manifest: Manifest, max_shard_size: int | str) -> list[Shard]:
    """The files that tensors are written to: in their order, each file as full as it may be.

    A tensor that is larger than `max_shard_size` has a file of its own.

    Raises:
        CheckpointError: A dtype cannot be written, or a name is none that the format allows.
    """
    limit = parse_size(max_shard_size)
    faults = [f"tensor {name}: {i.dtype} cannot be written" for name, i in manifest.items() if i.dtype not in _NAMES]
    faults += ["a tensor is called '__metadata__', which the format keeps for itself"] * ("__metadata__" in manifest)
    if faults:
        raise CheckpointError("These tensors cannot be written as safetensors:", faults=faults)
    groups = fill_files(manifest, lambda name: manifest[name].nbytes, limit)
    count = len(groups)
    names = (
        [f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)] if count > 1 else [SINGLE]
    )
    return [
        Shard(name, _aligned({key: manifest[key] for key in group})) for name, group in zip(names, groups, strict=True)
    ]


def fill_files(items: Iterable[T], nbytes_of: Callable[[T], int], limit: int) -> list[list[T]]:
    """What goes into each file: items in their order, each file as full as it may be, and at least one file.

    An item that is larger than the limit has a file of its own.
    """
    files: list[list[T]] = [[]]
    filled = 0
    for item in items:
        nbytes = nbytes_of(item)
        if files[-1] and filled + nbytes > limit:
            files.append([])
            filled = 0
        files[-1].append(item)
        filled += nbytes
    return files


def write_safetensors(folder: Path, shards: Iterable[Shard], source: Readable, *, wrote: Wrote | None = None) -> None:
    """Write shards, and the index if there are several.

    A file has its name only once it is complete and safe on the disk; one that is there already is left as it is, so
    that writing goes on where it has stopped.

    Args:
        folder: The folder; made if it is missing.
        shards: What to write.
        source: The tensors.
        wrote: Called as bytes are written, also for those of files that are there already.

    Raises:
        CheckpointError: A tensor is not what the shard says, or its file has been cut off meanwhile.
    """
    shards = list(shards)
    folder.mkdir(parents=True, exist_ok=True)
    wrote = wrote or (lambda nbytes: None)
    with ThreadPoolExecutor(1) as disk:  # it waits for the disk while the next shard is written
        finishing: list[Future[None]] = []
        for shard in shards:
            if _is_complete(folder / shard.file, shard):
                wrote(shard.nbytes)
                continue
            file = (folder / f"{shard.file}.partial").open("wb", buffering=0)
            try:
                _write_shard(file, shard, source, wrote, disk)
            except BaseException:
                file.close()
                raise
            finishing.append(disk.submit(_finish, file, folder / shard.file))
            for done in [future for future in finishing if future.done()]:
                done.result()
        for future in finishing:
            future.result()
    if len(shards) > 1:
        write_synced(folder / INDEX, _index(shards))


def write_synced(path: Path, data: bytes) -> None:
    """Write a small file that is complete, and safe on the disk, once it has its name."""
    partial = path.with_name(f"{path.name}.partial")
    file = partial.open("wb", buffering=0)
    try:
        _write_all(file, memoryview(data))
    except BaseException:
        file.close()
        raise
    _finish(file, path)


def _aligned(group: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    return dict(sorted(group.items(), key=lambda item: -ITEMSIZES[item[1].dtype]))


def _index(shards: Iterable[Shard]) -> bytes:
    """The index of shards, as transformers writes it."""
    weight_map = {name: shard.file for shard in shards for name in shard.manifest}
    total = sum(shard.nbytes for shard in shards)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    return (json.dumps(index, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _is_complete(path: Path, shard: Shard) -> bool:
    """Whether a file is there and, by its header and length, the shard."""
    if not path.is_file() or path.stat().st_size != len(shard.header) + shard.nbytes:
        return False
    with path.open("rb") as file:
        return file.read(len(shard.header)) == shard.header


def _write_shard(file: BinaryIO, shard: Shard, source: Readable, wrote: Wrote, disk: ThreadPoolExecutor) -> None:
    """Header and tensors; the disk is kept busy meanwhile, so that the last sync has less to wait for."""
    _write_all(file, memoryview(shard.header))
    unsynced, syncing = 0, disk.submit(int)
    try:
        for name, info in shard.manifest.items():
            for nbytes in _write_tensor(file, name, info, source):
                wrote(nbytes)
                unsynced += nbytes
                if unsynced >= _SYNC_EVERY and syncing.done():
                    syncing, unsynced = disk.submit(os.fsync, file.fileno()), 0
    finally:
        syncing.result()  # before anybody closes the file


def _write_tensor(file: BinaryIO, name: str, info: TensorInfo, source: Readable) -> Iterator[int]:
    """Write one tensor piece by piece, and give the bytes of each."""
    extent = source.extent(name)
    if extent is not None:
        if extent.nbytes != info.nbytes:
            raise CheckpointError(f"{name} has {extent.nbytes} bytes in {extent.file}, not {info.nbytes}.")
        if hasattr(os, "copy_file_range") and (yield from _copy_extent(file, name, extent)):
            return
    tensor = source.tensor(name)
    if (tuple(tensor.shape), str(tensor.dtype)) != (info.shape, f"torch.{info.dtype}"):
        raise CheckpointError(
            f"{name} is {tensor.dtype} {tuple(tensor.shape)}, where {info.dtype} {info.shape} was expected."
        )
    data = _bytes(tensor)
    for start in range(0, len(data), _PIECE):
        piece = data[start : start + _PIECE]
        _write_all(file, piece)
        yield len(piece)


def _copy_extent(file: BinaryIO, name: str, extent: Extent) -> Generator[int, None, bool]:
    """Have the kernel copy a tensor from file to file; returns whether it does so between these two."""
    with extent.file.open("rb", buffering=0) as there:
        at, end = extent.start, extent.start + extent.nbytes
        while at < end:
            try:
                count = os.copy_file_range(there.fileno(), file.fileno(), min(_PIECE, end - at), offset_src=at)
            except OSError as error:
                if at == extent.start and error.errno in _NOT_BETWEEN_THESE:
                    return False
                raise
            if not count:
                raise CheckpointError(f"{extent.file} was cut off while {name} was read.")
            at += count
            yield count
    return True


_NOT_BETWEEN_THESE = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)


def _bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor; as bytes, since NumPy does not know all dtypes."""
    import torch

    data: Any = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(data)


def _write_all(file: BinaryIO, data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]


def _finish(file: BinaryIO, path: Path) -> None:
    """Put a file on the disk, and give it its name."""
    with file:
        os.fsync(file.fileno())
    os.replace(file.name, path)

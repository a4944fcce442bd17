"""Writing checkpoints of safetensors files, one tensor at a time.

The shards follow from names, shapes and dtypes alone, so that headers are written before any tensor is read. A tensor
that lies in a file just as it is to be is copied there by the kernel; of any other, its memory is written as it lies.

Several ranks share the work. Each begins at a file of its own and goes through all files from there; of each it takes
one part after the other until none is left. So ranks are apart as long as there is enough to do, nobody waits, and what
is left at the end, be it a single file, is written by all. Who is the last to put parts of a file on the disk gives it
its name.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from kinfold.checkpoint.base import Extent, Readable
from kinfold.checkpoint.crew import Crew
from kinfold.checkpoint.manifest import TensorInfo
from kinfold.checkpoint.names import INDEX
from kinfold.checkpoint.shards import Origins, Part, Shard, index_of
from kinfold.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

Wrote = Callable[[int], None]
"""Called with the number of bytes that have been written since the last call."""

_Write = Callable[[BinaryIO, str, TensorInfo], Iterable[int]]

_PIECE = 64 * 2**20
_SYNC_EVERY = 256 * 2**20


def write_safetensors(
    folder: Path,
    shards: Iterable[Shard],
    source: Readable,
    *,
    wrote: Wrote | None = None,
    crew: Crew | None = None,
    origins: Origins = lambda name: (name,),
    pieces: Callable[[str], Iterable[Tensor]] | None = None,
) -> None:
    """Write shards, and the index if there are several.

    A file has its name only once it is complete and safe on the disk; one that is there already is left as it is, so
    that writing goes on where it has stopped.

    Args:
        folder: The folder; made if it is missing.
        shards: What to write.
        source: The tensors.
        wrote: Called as bytes are written, also for those of files that are there already.
        crew: The ranks that do it together: each calls this with the same arguments, and returns when all is written.
        origins: What a tensor is made of. Neighbours that have some of it in common are written by one rank.
        pieces: Gives the values of a tensor in pieces, each of which is let go of before there is the next; None for
            all of them at once.

    Raises:
        CheckpointError: A tensor is not what the shard says, or its file has been cut off meanwhile.
        RankError: Another rank has failed.
    """
    shards = list(shards)
    crew = crew or Crew()
    wrote = wrote or (lambda nbytes: None)
    complete = crew.told("complete", lambda: _cleared(folder, shards))
    write = partial(_write_tensor, source=source, pieces=pieces)
    start = crew.rank * len(shards) // crew.size
    with ThreadPoolExecutor(1) as disk:  # it waits for the disk while the next shard is written
        finishing: list[Future[None]] = []
        for shard in shards[start:] + shards[:start]:
            parts = shard.parts(origins)
            taken = _taken(shard.file, parts, crew)
            if shard.file in complete:
                wrote(sum(part.nbytes for part in taken))
            elif first := next(taken, None):
                file, count = _write_parts(folder / shard.file, chain([first], taken), write, wrote, disk)
                finishing.append(disk.submit(_keep, file, folder / shard.file, crew, count, len(parts)))
            for done in [future for future in finishing if future.done()]:
                done.result()
        for future in finishing:
            future.result()
    crew.meet("written")
    crew.told("concluded", lambda: _conclude(folder, shards))


def write_synced(path: Path, data: bytes) -> None:
    """Write a small file that is complete, and safe on the disk, once it has its name."""
    file = _partial(path).open("wb", buffering=0)
    try:
        _write_all(file, memoryview(data))
    except BaseException:
        file.close()
        raise
    _finish(file, path)


def _taken(file: str, parts: Sequence[Part], crew: Crew) -> Iterator[Part]:
    """The parts of a file that no other rank has taken, one after the other."""
    while (number := crew.add(f"taken {file}", 1) - 1) < len(parts):
        yield parts[number]


def _cleared(folder: Path, shards: Iterable[Shard]) -> list[str]:
    """Remove what is left of files that are not complete; gives the names of those that are."""
    folder.mkdir(parents=True, exist_ok=True)
    complete = [shard.file for shard in shards if shard.is_in(folder)]
    for shard in shards:
        _partial(folder / shard.file).unlink(missing_ok=True)
    return complete


def _conclude(folder: Path, shards: Sequence[Shard]) -> None:
    """Write the index, if there are several files."""
    if missing := [shard.file for shard in shards if not shard.is_in(folder)]:
        raise CheckpointError(f"Files in {folder} were complete, and are so no more:", faults=missing)
    if len(shards) > 1:
        write_synced(folder / INDEX, index_of(shards))


def _partial(path: Path) -> Path:
    """What a file is called until it is complete."""
    return path.with_name(f"{path.name}.partial")


def _write_parts(
    path: Path, parts: Iterable[Part], write: _Write, wrote: Wrote, disk: ThreadPoolExecutor
) -> tuple[BinaryIO, int]:
    """Write parts of a file, to which others write, too; gives the open file, and how many parts there were.

    The disk is kept busy meanwhile, so that the last sync has less to wait for.
    """
    file = open(_partial(path), "r+b", buffering=0, opener=_created)  # noqa: SIM115  (closed by `_keep`)
    count, unsynced, syncing = 0, 0, disk.submit(lambda: None)
    try:
        for part in parts:
            count += 1
            file.seek(part.start)
            _write_all(file, memoryview(part.header))
            for name, info in part.manifest.items():
                for nbytes in write(file, name, info):
                    wrote(nbytes)
                    unsynced += nbytes
                    if unsynced >= _SYNC_EVERY and syncing.done():
                        syncing.result()
                        syncing, unsynced = disk.submit(os.fsync, file.fileno()), 0
        syncing.result()
    except BaseException:
        wait([syncing])  # before anybody closes the file
        file.close()
        raise
    return file, count


def _created(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, 0o666)


def _keep(file: BinaryIO, path: Path, crew: Crew, count: int, of: int) -> None:
    """Put what was written of a file on the disk; give it its name if that was all that was missing."""
    with file:
        os.fsync(file.fileno())
    if crew.add(f"kept {path.name}", count) == of:
        os.replace(file.name, path)


def _write_tensor(
    file: BinaryIO,
    name: str,
    info: TensorInfo,
    *,
    source: Readable,
    pieces: Callable[[str], Iterable[Tensor]] | None,
) -> Iterator[int]:
    """Write one tensor piece by piece, and give the bytes of each."""
    extent = source.extent(name)
    if extent is not None:
        if extent.nbytes != info.nbytes:
            raise CheckpointError(f"{name} has {extent.nbytes} bytes in {extent.file}, not {info.nbytes}.")
        if hasattr(os, "copy_file_range") and (yield from _copy_extent(file, name, extent)):
            return
    count = 0
    for values in pieces(name) if pieces else _whole(name, info, source):
        data = _bytes(values)
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            _write_all(file, piece)
            yield len(piece)
        count += len(data)
    if count != info.nbytes:
        raise CheckpointError(f"{name} has {count} bytes, not {info.nbytes}.")


def _whole(name: str, info: TensorInfo, source: Readable) -> list[Tensor]:
    tensor = source.tensor(name)
    if (tuple(tensor.shape), str(tensor.dtype)) != (info.shape, f"torch.{info.dtype}"):
        raise CheckpointError(
            f"{name} is {tensor.dtype} {tuple(tensor.shape)}, where {info.dtype} {info.shape} was expected."
        )
    return [tensor]


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

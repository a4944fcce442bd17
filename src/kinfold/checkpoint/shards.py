"""Which tensors go into which file of a checkpoint, and where: by names, shapes and dtypes alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from kinfold.checkpoint.header import DTYPES
from kinfold.checkpoint.manifest import ITEMSIZES, Manifest, TensorInfo
from kinfold.checkpoint.names import SINGLE
from kinfold.errors import CheckpointError

T = TypeVar("T")

Origins = Callable[[str], Collection[str]]
"""Gives the names of what a tensor is made of."""

PART = 16 * 2**20
"""About how many bytes there are in a part of a file."""

_NAMES: Mapping[str, str] = {dtype: name for name, dtype in DTYPES.items()}
_UNITS: Mapping[str, int] = {
    "": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30,
}  # fmt: skip


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

    def is_in(self, folder: Path) -> bool:
        """Whether it is in a folder, by its name, header and length."""
        path = folder / self.file
        if not path.is_file() or path.stat().st_size != len(self.header) + self.nbytes:
            return False
        with path.open("rb") as file:
            return file.read(len(self.header)) == self.header

    def parts(self, origins: Origins) -> list[Part]:
        """All of it in parts of about the same size.

        Args:
            origins: What a tensor is made of. Neighbours that have some of it in common are in one part.
        """
        parts = [Part(0, self.header, {})]
        at, filled, before = len(self.header), 0, frozenset()
        for name, info in self.manifest.items():
            here = frozenset(origins(name))
            if filled and filled + info.nbytes > PART and here.isdisjoint(before):
                parts.append(Part(at, b"", {}))
                filled = 0
            parts[-1].manifest[name] = info
            at, filled, before = at + info.nbytes, filled + info.nbytes, here
        return parts


@dataclass(frozen=True, slots=True)
class Part:
    """Tensors that lie one after the other in a file.

    Attributes:
        start: Where in the file it begins.
        header: What stands before them, in the first part of a file; else nothing.
        manifest: The tensors.
    """

    start: int
    header: bytes
    manifest: dict[str, TensorInfo]

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


def index_of(shards: Iterable[Shard]) -> bytes:
    """The index of shards, as transformers writes it."""
    weight_map = {name: shard.file for shard in shards for name in shard.manifest}
    total = sum(shard.nbytes for shard in shards)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    return (json.dumps(index, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


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


def _aligned(group: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    return dict(sorted(group.items(), key=lambda item: -ITEMSIZES[item[1].dtype]))

"""The header of a GGUF file, read strictly.

The format (ggml's docs/gguf.md, versions 2 and 3, little-endian): magic, version, counts, then the metadata as
key, type and value, then for each tensor its name, dimensions (the fastest first), type and offset; the values
follow at the next multiple of the alignment.
"""

from __future__ import annotations

import mmap
import stat
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinfold.errors import CheckpointError

_SCALARS: Mapping[int, str] = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
"""The number of a type of metadata to how `struct` reads it."""

_STRING, _ARRAY = 8, 9
_SMALLEST_TENSOR_INFO = 8 + 4 + 4 + 8
_SMALLEST_ENTRY = 8 + 4 + 1


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor: its dimensions with the slowest first, ggml's number of its type, its first byte in the file."""

    shape: tuple[int, ...]
    type: int
    start: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """The metadata and the tensors of a file."""

    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]
    file_size: int


def read_gguf_header(path: Path) -> GgufHeader:
    """Read a header; the values of tensors are not touched.

    Raises:
        CheckpointError: The file is cut off, damaged or of another version; says where.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path} is no regular file.")
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(data).header()
    except (struct.error, ValueError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{path} is no sound GGUF file: {error}") from error


class _Reader:
    """Reads values one after the other; whatever does not fit in the file is a ValueError."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = 0

    def header(self) -> GgufHeader:
        magic, version, num_tensors, num_entries = self._unpack("<4sIQQ")
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError(f"magic {magic!r}, version {version}; versions 2 and 3, little-endian, are read")
        # Refused before anything is set aside for them: a hostile count would otherwise take all memory.
        if num_tensors * _SMALLEST_TENSOR_INFO + num_entries * _SMALLEST_ENTRY > len(self.data):
            raise ValueError(f"{num_tensors} tensors and {num_entries} entries of metadata do not fit in the file")
        metadata = self._named(num_entries, self._value)
        infos = self._named(num_tensors, self._tensor_info)
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment <= 0:
            raise ValueError(f"general.alignment = {alignment!r} is no alignment")
        start = -(-self.at // alignment) * alignment
        tensors = {name: GgufTensor(shape, kind, start + offset) for name, (shape, kind, offset) in infos.items()}
        return GgufHeader(metadata, tensors, len(self.data))

    def _named(self, count: int, read: Callable[[], Any]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for _ in range(count):
            name = self._string()
            if name in values:
                raise ValueError(f"{name!r} stands twice")
            values[name] = read()
        return values

    def _value(self) -> Any:
        (kind,) = self._unpack("<I")
        return self._typed(kind)

    def _typed(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            (value,) = self._unpack(self._format(kind))
            return value
        item_kind, count = self._unpack("<IQ")
        if item_kind == _STRING:
            if count * 8 > len(self.data) - self.at:
                raise ValueError(f"an array of {count} strings does not fit in the file")
            return [self._string() for _ in range(count)]
        if item_kind == _ARRAY:
            raise ValueError("arrays of arrays are not read")
        return list(self._unpack(f"<{count}{self._format(item_kind)[1]}"))

    def _tensor_info(self) -> tuple[tuple[int, ...], int, int]:
        (num_dims,) = self._unpack("<I")
        if num_dims > 8:
            raise ValueError(f"a tensor of {num_dims} dimensions at byte {self.at}")
        *dims, kind, offset = self._unpack(f"<{num_dims}QIQ")
        return tuple(reversed(dims)), kind, offset

    def _string(self) -> str:
        (length,) = self._unpack("<Q")
        start, self.at = self.at, self.at + length
        if self.at > len(self.data):
            raise ValueError(f"a string of {length} bytes at byte {start} does not fit in the file")
        return self.data[start : self.at].decode("utf-8")

    def _unpack(self, form: str) -> tuple[Any, ...]:
        size = struct.calcsize(form)
        if self.at + size > len(self.data):
            raise ValueError(f"the file ends within a value of {size} bytes at byte {self.at}")
        values = struct.unpack_from(form, self.data, self.at)
        self.at += size
        return values

    def _format(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise ValueError(f"metadata of the type {kind} at byte {self.at} is not known")
        return _SCALARS[kind]

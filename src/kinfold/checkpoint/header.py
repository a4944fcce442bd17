"""The header of a safetensors file, read strictly.

The format: 8 bytes with the length of the header (little-endian), the header in JSON, then the values of all
tensors without gaps. Each entry has `dtype`, `shape` and `data_offsets` from the end of the header.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from kinfold.checkpoint.manifest import ITEMSIZES
from kinfold.checkpoint.strict_json import parse_json
from kinfold.errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000
"""What the reader of the safetensors package allows."""

DTYPES: Mapping[str, str] = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "U16": "uint16", "I32": "int32", "U32": "uint32",
    "I64": "int64", "U64": "uint64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64", "C64": "complex64",
}  # fmt: skip
"""The format's name of a dtype to torch's."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a tensor lies in its file.

    Attributes:
        dtype: As torch calls it.
        shape: Its shape.
        start: Its first byte, from the start of the file.
        nbytes: Its length in bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int


def read_header(path: Path) -> dict[str, Entry]:
    """The entries of a file by name, in the order of the header.

    Raises:
        CheckpointError: Lists everything that is wrong with the header; nothing of the values is read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # before it is opened: opening a FIFO waits for ever
        raise CheckpointError(f"{path} is no regular file.")
    with path.open("rb") as file:
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or length > min(MAX_HEADER_BYTES, status.st_size - 8):
            raise CheckpointError(
                f"{path} is no safetensors file, or is cut off: its header would be {length} bytes long, "
                f"the file is {status.st_size} (and a header at most {MAX_HEADER_BYTES})."
            )
        text = file.read(length)
    header = parse_json(text, place=f"The header of {path}")
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} is no safetensors file: its header holds no table.")
    header.pop("__metadata__", None)
    faults: list[str] = []
    entries = {name: entry for name, value in header.items() if (entry := _entry(name, value, 8 + length, faults))}
    if not faults:
        faults = _layout_faults(entries, 8 + length, status.st_size)
    if faults:
        raise CheckpointError(f"{path} is damaged:", faults=faults)
    return entries


def _entry(name: str, value: Any, data_start: int, faults: list[str]) -> Entry | None:
    if not isinstance(value, dict) or not value.keys() >= {"dtype", "shape", "data_offsets"}:
        faults.append(f"tensor {name!r}: its entry needs dtype, shape and data_offsets")
        return None
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        faults.append(f"tensor {name!r}: the dtype {dtype!r} is not known (known: {', '.join(DTYPES)})")
        return None
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        faults.append(f"tensor {name!r}: shape {shape} and data_offsets {offsets} must be counts, the latter two")
        return None
    nbytes = prod(shape) * ITEMSIZES[DTYPES[dtype]]
    if nbytes != offsets[1] - offsets[0]:
        faults.append(f"tensor {name!r}: {dtype} {tuple(shape)} takes {nbytes} bytes, not {offsets[1] - offsets[0]}")
        return None
    return Entry(DTYPES[dtype], tuple(shape), data_start + offsets[0], nbytes)


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)


def _layout_faults(entries: Mapping[str, Entry], data_start: int, file_size: int) -> list[str]:
    """Tensors that overlap, gaps between them, and a file that ends too early or too late."""
    faults = []
    end, before = data_start, "the header"
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].nbytes)):
        if entry.start != end:
            how = f"overlaps {before}" if entry.start < end else f"leaves a gap of {entry.start - end} bytes"
            faults.append(f"tensor {name!r} {how}")
        end, before = max(end, entry.start + entry.nbytes), repr(name)
    if end != file_size:
        faults.append(f"the tensors end at byte {end}, the file at {file_size}: it is cut off or has more at its end")
    return faults

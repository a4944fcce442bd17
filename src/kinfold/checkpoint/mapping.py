"""Files mapped into memory."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


_NO_RESERVE: int = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
"""Python has the name of it since 3.13."""


def map_privately(path: Path) -> Tensor:
    """The bytes of a file, uint8, (size,), mapped copy on write.

    Nothing is read before it is looked at; what is written goes to fresh memory and never to the file. The file may be
    larger than memory: Linux would refuse that, as all of it might be written to, if memory were set aside for it.
    """
    import torch

    with path.open("rb") as file:
        flags, access = mmap.MAP_PRIVATE | _NO_RESERVE, mmap.PROT_READ | mmap.PROT_WRITE
        return torch.frombuffer(mmap.mmap(file.fileno(), 0, flags, access), dtype=torch.uint8)


def read_slice(mapping: Tensor, start: int, count: int, dtype: torch.dtype, *, copy: bool) -> Tensor:
    """Some bytes of a mapped file as values of a dtype: (count / itemsize,).

    Without `copy` they stay mapped, unless they do not begin at a multiple of the item size, which the formats do
    not promise and a view needs. A copy from the mapping takes half the time of reading into fresh memory, since
    torch copies with all threads.
    """
    data = mapping[start : start + count]
    if copy or data.data_ptr() % dtype.itemsize:
        data = data.clone()
    return data.view(dtype)

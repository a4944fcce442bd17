"""Files mapped into memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def map_privately(path: Path) -> Tensor:
    """The bytes of a file, uint8, (size,), mapped copy on write.

    Nothing is read before it is looked at; what is written goes to fresh memory and never to the file.
    """
    import torch

    return torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)


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

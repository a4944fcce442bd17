"""Files mapped into memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kinfold.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor


def map_privately(path: Path) -> Tensor:
    """The bytes of a file, uint8, (size,), mapped copy on write.

    Nothing is read before it is looked at; what is written goes to fresh memory and never to the file.
    """
    import torch

    return torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)


def read_bytes(path: Path, start: int, count: int) -> Tensor:
    """Bytes of a file in fresh memory, uint8, (count,).

    Raises:
        CheckpointError: The file is shorter than that.
    """
    import torch

    data = torch.empty(count, dtype=torch.uint8)
    rest = memoryview(data.numpy())  # pyright: ignore[reportArgumentType]
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while rest:  # one call reads at most 2 GB on Linux
            got = file.readinto(rest)
            if not got:
                raise CheckpointError(f"{path} has become shorter since it was opened.")
            rest = rest[got:]
    return data

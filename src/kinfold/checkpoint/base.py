"""What every kind of checkpoint has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from kinfold.checkpoint.manifest import Manifest

if TYPE_CHECKING:
    from torch import Tensor


Block = tuple[range, ...]
"""A part of a tensor: along each dimension a range with step 1."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Where the values of a tensor lie in a file, just as they are in memory, without gaps."""

    file: Path
    start: int
    nbytes: int


class Readable(Protocol):
    """What can be written to a file: names and shapes, and the tensors one by one."""

    @property
    def manifest(self) -> Manifest:
        """What there is, in the order in which it is best read."""
        ...

    def tensor(self, name: str) -> Tensor:
        """Read one tensor; of the shape and dtype that the manifest says."""
        ...

    def extent(self, name: str) -> Extent | None:
        """Where a tensor lies in a file, if it is there as it is."""
        ...


class Checkpoint(ABC):
    """An open checkpoint: a context manager.

    Attributes:
        path: The file or folder it was opened at.
        layout: The kind of file: "safetensors", "gguf", "pickle" or "dcp".
        manifest: Its tensors, from headers alone.
        config: What config.json (or Meta's params.json) holds, or the metadata of a GGUF file without its tokenizer.
    """

    path: Path
    layout: str
    manifest: Manifest
    config: Mapping[str, Any]

    @abstractmethod
    def tensor(self, name: str, *, mmap: bool = True) -> Tensor:
        """Read one tensor.

        Args:
            name: Its name.
            mmap: Leave it mapped to the file where it needs no change: nothing is copied before it is written
                to, and the file itself is never written. False reads it into fresh memory.

        Raises:
            CheckpointError: There is no such tensor.
        """

    def block(self, name: str, block: Block) -> Tensor:
        """Read a block of one tensor, mapped to the file where that is possible.

        Args:
            name: The name of the tensor.
            block: The positions along each of its dimensions, without gaps.

        Raises:
            CheckpointError: There is no such tensor.
        """
        tensor = self.tensor(name)
        part = tensor[tuple(slice(positions.start, positions.stop) for positions in block)]
        # Where it is not mapped with its whole file, it has memory of its own, all of which a view would keep.
        keeps_more = part.numel() < tensor.numel() and tensor.untyped_storage().nbytes() == tensor.nbytes
        return part.clone() if keeps_more else part

    def extent(self, name: str) -> Extent | None:
        """Where a tensor lies in its file, for copying it there without reading it; None where that is not known."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Let go of the file; tensors that are mapped to it stay valid."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

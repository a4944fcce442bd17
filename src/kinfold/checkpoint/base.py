"""What every kind of checkpoint has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from kinfold.checkpoint.manifest import Manifest

if TYPE_CHECKING:
    from torch import Tensor


class Checkpoint(ABC):
    """An open checkpoint: a context manager.

    Attributes:
        path: The file or folder it was opened at.
        layout: The kind of file: "safetensors" or "gguf".
        manifest: Its tensors, from headers alone.
        config: What config.json holds, or the metadata of a GGUF file without its tokenizer.
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

    @abstractmethod
    def close(self) -> None:
        """Let go of the file; tensors that are mapped to it stay valid."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

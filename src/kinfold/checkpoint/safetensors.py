"""Checkpoints of safetensors files: one, or several with an index."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinfold.checkpoint.base import Checkpoint, Extent
from kinfold.checkpoint.header import Entry, read_header
from kinfold.checkpoint.manifest import TensorInfo
from kinfold.checkpoint.mapping import map_privately, read_slice
from kinfold.errors import CheckpointError, nearest

if TYPE_CHECKING:
    from torch import Tensor


class SafetensorsCheckpoint(Checkpoint):
    """A checkpoint of safetensors files.

    Args:
        path: What was opened.
        files: The files.
        config: What config.json holds.
        listed: The file of each tensor according to an index, which has to agree with the files.

    Raises:
        CheckpointError: Lists every fault of every file.
    """

    layout = "safetensors"

    def __init__(
        self,
        path: Path,
        files: Iterable[Path],
        *,
        config: Mapping[str, Any],
        listed: Mapping[str, Path] | None = None,
    ) -> None:
        self.path = path
        self.config = config
        self._entries: dict[str, _Located] = {}
        self._mappings: dict[Path, Tensor] = {}
        faults: list[str] = []
        for file in files:
            try:
                header = read_header(file)
            except CheckpointError as error:
                faults += [error.summary, *error.faults]
                continue
            for name, entry in header.items():
                if name in self._entries:
                    faults.append(f"tensor {name} is in two files, {self._entries[name].file.name} and {file.name}")
                self._entries[name] = _Located(file, entry)
        if listed is not None and not faults:
            faults += self._disagreements(listed)
        if faults:
            raise CheckpointError(f"{path} cannot be read:", faults=faults)
        self.manifest = {
            name: TensorInfo(located.entry.shape, located.entry.dtype, located.entry.dtype)
            for name, located in self._entries.items()
        }

    def tensor(self, name: str, *, mmap: bool = True) -> Tensor:
        import torch

        if name not in self._entries:
            raise CheckpointError(f"{self.path} has no tensor {name!r}.", hint=nearest(name, self._entries))
        file, entry = self._entries[name].file, self._entries[name].entry
        dtype = getattr(torch, entry.dtype)
        if not entry.nbytes:
            return torch.empty(entry.shape, dtype=dtype)
        return read_slice(self._mapping(file), entry.start, entry.nbytes, dtype, copy=not mmap).view(entry.shape)

    def extent(self, name: str) -> Extent | None:
        located = self._entries.get(name)
        return Extent(located.file, located.entry.start, located.entry.nbytes) if located else None

    def close(self) -> None:
        self._mappings.clear()

    def _mapping(self, file: Path) -> Tensor:
        if file not in self._mappings:
            self._mappings[file] = map_privately(file)
        return self._mappings[file]

    def _disagreements(self, listed: Mapping[str, Path]) -> list[str]:
        missing = [
            f"the index lists {name} in {file.name}, which does not hold it"
            for name, file in listed.items()
            if name not in self._entries or self._entries[name].file != file
        ]
        extra = [
            f"{located.file.name} holds {name}, which the index does not list"
            for name, located in self._entries.items()
            if name not in listed
        ]
        return [*missing, *extra]


@dataclass(frozen=True, slots=True)
class _Located:
    """A tensor, and the file it lies in."""

    file: Path
    entry: Entry

"""One family's key map as somebody else wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from zlib import crc32

from kinfold.checkpoint import Manifest


@dataclass(frozen=True)
class Case:
    """A checkpoint's side, a model's side, and which tensors of the first make up each tensor of the second.

    Attributes:
        origin: Who wrote the map: `conversion_mapping`, `gguf`, `convert_scripts`.
        family: As the origin calls it.
        source: The checkpoint's tensors.
        target: The model's tensors.
        truth: For each name of `target`, the names of `source` that it is made of, as a set: one for a rename, several
            for a stack or a fused tensor. One that is only a part of a source has that source's name.
    """

    origin: str
    family: str
    source: Manifest
    target: Manifest
    truth: Mapping[str, frozenset[str]]

    @property
    def unseen(self) -> bool:
        """Whether the family belongs to the third that nobody looks at while tuning the vocabulary."""
        return crc32(self.family.encode()) % 3 == 0

"""What a card can point to, and the plainest kind of it: a path."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from kinfold.assets.checksum import Checksum

Role = Literal["checkpoint", "tokenizer"]
"""What is wanted of a place: of a repository, a tokenizer needs other files than a checkpoint."""

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+-]+):(.*)", re.DOTALL)


class Uri(ABC):
    """Something that a card points to, on this machine or not."""

    @abstractmethod
    def __str__(self) -> str:
        """As it would stand in a card anywhere."""

    @abstractmethod
    def here(self, role: Role, checksum: Checksum | None) -> Path | None:
        """The file or folder if it is on this machine; fetches nothing."""

    @abstractmethod
    def fetch(self, role: Role, checksum: Checksum | None) -> Path:
        """The file or folder on this machine, fetched if it was not.

        Args:
            role: What it is wanted as.
            checksum: What the card says its files have, if it does.

        Raises:
            CardError: It cannot be had.
        """


@dataclass(frozen=True, slots=True)
class FileUri(Uri):
    """A file or a folder on this machine, which need not be there."""

    path: Path

    @classmethod
    def parse(cls, text: str, card: Path) -> FileUri:
        """A plain path, or `file:` and a path with its special signs escaped; relative to the file of the card."""
        if (found := SCHEME.fullmatch(text)) and found[1] == "file":
            rest = unquote(found[2])
            text = "/" + rest.lstrip("/") if rest.startswith("/") else rest
        return cls((card.parent / Path(text).expanduser()).resolve())

    def __str__(self) -> str:
        return str(self.path)

    def here(self, role: Role, checksum: Checksum | None) -> Path | None:
        return self.path if self.path.exists() else None

    def fetch(self, role: Role, checksum: Checksum | None) -> Path:
        return self.path

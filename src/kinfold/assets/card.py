"""One card as it is used: what it says, after inheritance."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from kinfold.assets.inheritance import Inherited, file_of, inherit
from kinfold.assets.place import Place, parse_uri
from kinfold.assets.places import SUFFIXES, is_card_path
from kinfold.assets.uri import FileUri, Role
from kinfold.errors import CardError


class _Values(msgspec.Struct, frozen=True):
    """The values of a card; `checkpoint` and `tokenizer` are what they point to, a `Path` or a `Place`."""

    name: str
    model_family: str
    source: Path
    model_arch: str | None = None
    model_config: Mapping[str, Any] = {}
    checkpoint: Any = None
    tokenizer: Any = None
    written: Inherited | None = None


class AssetCard(_Values, frozen=True):
    """One card.

    Attributes:
        name: What `load_model` and `scaffold` call the model.
        model_family: The family it is of.
        source: The file the card was read from.
        model_arch: The arch its config starts from; the family's default arch if None.
        model_config: Fields of the config that differ from the arch.
        checkpoint: The file or folder of its weights; None if it has none.
        tokenizer: The file or folder of its tokenizer; the checkpoint's own if not said.
        written: What stands in which file; None for a card that was not read from one.

    What `checkpoint` and `tokenizer` point to may lie on another machine. Asking for them fetches it, and compares the
    checkpoint with its checksum; a `CardError` says what cannot be had. `checkpoint_place` and `tokenizer_place` fetch
    nothing.
    """

    @property
    def checkpoint(self) -> Path | None:
        """The file or folder of the weights, on this machine."""
        return _local(super().checkpoint)

    @property
    def is_bare(self) -> bool:
        """Whether it was made for a checkpoint that no card names: the checkpoint is its source as well."""
        return super().checkpoint == self.source

    @property
    def tokenizer(self) -> Path | None:
        """The file or folder of the tokenizer, on this machine."""
        return _local(super().tokenizer)

    @property
    def checkpoint_place(self) -> Place | None:
        """What the checkpoint is, wherever it lies."""
        return self._place("checkpoint", super().checkpoint)

    @property
    def tokenizer_place(self) -> Place | None:
        """What the tokenizer is, wherever it lies."""
        return self._place("tokenizer", super().tokenizer)

    def file_of(self, key: str) -> Path:
        """The file that a value is from; of several values, such as `model_config`, the first one's."""
        origins = self.written.origins if self.written else {}
        found = (file for name, file in origins.items() if name == key or name.startswith(f"{key}."))
        return next(found, self.source)

    def _place(self, key: Role, said: Path | Place | None) -> Place | None:
        return Place(FileUri(said), self.source, key, key) if isinstance(said, Path) else said


def retrieve_asset_card(name_or_path: str | Path) -> AssetCard:
    """The card of that name, or in the file at that path (which ends in .yaml or .yml).

    Raises:
        CardError: There is none (the nearest are named), two, or one that is malformed.
    """
    if is_card_path(name_or_path):
        return read_card(Path(name_or_path).expanduser().absolute())
    if isinstance(name_or_path, Path):
        raise CardError(f"{name_or_path} is no file of a card.", hint=f"Those end in {' or '.join(SUFFIXES)}.")
    return read_card(file_of(name_or_path))


def read_card(path: Path) -> AssetCard:
    """The card in a file, with what it inherits; the paths in each file are relative to it.

    Raises:
        CardError: It is malformed, or one that it is based on is, or is not there.
    """
    card = inherit(path)
    return AssetCard(
        name=card.values["name"],
        model_family=card.values["model_family"],
        source=path,
        model_arch=card.values.get("model_arch"),
        model_config=card.values["model_config"],
        checkpoint=_place_of("checkpoint", "checkpoint", card),
        tokenizer=_place_of("tokenizer", "tokenizer", card) or _place_of("checkpoint", "tokenizer", card),
        written=card,
    )


def _place_of(key: Role, role: Role, card: Inherited) -> Place | None:
    """What stands under `key`, to be used as `role`."""
    if key not in card.values:
        return None
    file = card.origins[key]
    checksum = card.values.get("checksum")
    if key != "checkpoint" and isinstance(checksum, str):
        checksum = None  # that is one of the checkpoint
    return Place(parse_uri(card.values[key], file), file, key, role, checksum)


def _local(said: Path | Place | None) -> Path | None:
    return said.local() if isinstance(said, Place) else said

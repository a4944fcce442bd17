"""What stands in the file of a card, and reading it strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from kinfold.assets.checksum import Checksum, checksum_faults
from kinfold.assets.place import parse_uri
from kinfold.documents import decode_document, read_document
from kinfold.errors import CardError


class CardFile(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The keys of a card's file, in the order they are written in; None and {} are what is not said.

    Attributes:
        name: That of the file.
        model_family: The family of the model.
        model_arch: One of its archs.
        model_config: Fields of the config that differ from the arch.
        checkpoint: The URI of the weights.
        checksum: Of the weights: `sha256:` and 64 digits, or one for each file of a folder.
        tokenizer: The URI of the tokenizer.
        base: The name of the card whose values this one has where it says none of its own.
    """

    name: str
    model_family: str | None = None
    model_arch: str | None = None
    model_config: dict[str, Any] = {}
    checkpoint: str | None = None
    checksum: Checksum | None = None
    tokenizer: str | None = None
    base: str | None = None


def read_card_file(path: Path) -> CardFile:
    """The card in a file, by itself.

    Raises:
        CardError: It is not as it should be; all faults are listed.
    """
    card = read_document(path, CardFile, CardError)
    _check(card, path)
    return card


def decode_card(text: str, path: Path) -> CardFile:
    """The same of a text that is to stand in the file `path`."""
    card = decode_document(text, CardFile, CardError, place=str(path))
    _check(card, path)
    return card


def _check(card: CardFile, path: Path) -> None:
    """All that the types do not say.

    Raises:
        CardError: Lists every fault.
    """
    faults = []
    if card.name != path.stem:
        faults.append(f"it calls itself {card.name!r}; the `name` of a card is that of its file, {path.stem!r}")
    if card.model_family is None and card.base is None:
        faults.append("missing required field `model_family` (only a card with a `base` can do without)")
    for key in ("checkpoint", "tokenizer"):
        if (uri := getattr(card, key)) is not None:
            try:
                parse_uri(uri, path)
            except CardError as error:
                faults.append(f"`{key}`: {error.summary}")
    faults += [f"`checksum`: {fault}" for fault in checksum_faults(card.checksum)]
    if faults:
        raise CardError(f"{path} is not as it should be:", faults=faults)

"""Asset cards: what a model is called, what family it is of, and where its weights lie.

A card is a YAML file in the folder `cards/` of a package that has families.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec

from kinfold.documents import read_document
from kinfold.errors import CardError, nearest
from kinfold.registry import families

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+-]+")


class _CardFile(msgspec.Struct, forbid_unknown_fields=True):
    """What stands in the file of a card."""

    name: str
    model_family: str
    model_arch: str | None = None
    model_config: dict[str, Any] = {}
    checkpoint: str | None = None
    tokenizer: str | None = None


class AssetCard(msgspec.Struct, frozen=True):
    """One card.

    Attributes:
        name: What `load_model` and `scaffold` call the model.
        model_family: The family it is of.
        model_arch: The arch its config starts from; the family's default arch if None.
        model_config: Fields of the config that differ from the arch.
        checkpoint: The file or folder of its weights; None if it has none.
        tokenizer: The file or folder of its tokenizer; the checkpoint's own if not said.
        source: The file the card was read from.
    """

    name: str
    model_family: str
    source: Path
    model_arch: str | None = None
    model_config: Mapping[str, Any] = {}
    checkpoint: Path | None = None
    tokenizer: Path | None = None


def retrieve_asset_card(name: str) -> AssetCard:
    """The card called `name`, from the packages of all families.

    Raises:
        CardError: There is none (the nearest are named), two, or one that is malformed.
    """
    files = [path for path in card_files() if path.stem == name]
    if not files:
        raise CardError(f"There is no card {name!r}.", hint=nearest(name, [path.stem for path in card_files()]))
    if len(files) > 1:
        raise CardError(f"There are {len(files)} cards {name!r}:", faults=[str(path) for path in files])
    return read_card(files[0])


def card_files() -> Iterator[Path]:
    """The files of all cards, by package and name; no family is imported."""
    for package in sorted({module.partition(".")[0] for module in families.modules.values()}):
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            yield from sorted(Path(folder, "cards").glob("*.yaml"))


def read_card(path: Path) -> AssetCard:
    """Read one card; the paths in it are relative to its file."""
    card = read_document(path, _CardFile, CardError)
    if card.name != path.stem:
        raise CardError(f"{path} calls itself {card.name!r}; the name of a card is that of its file, {path.stem!r}.")
    checkpoint = _locate(card.checkpoint, path)
    return AssetCard(
        name=card.name,
        model_family=card.model_family,
        source=path,
        model_arch=card.model_arch,
        model_config=card.model_config,
        checkpoint=checkpoint,
        tokenizer=_locate(card.tokenizer, path) or checkpoint,
    )


def _locate(uri: str | None, card: Path) -> Path | None:
    """The path that a `file:` URI or a plain path of a card stands for."""
    if uri is None:
        return None
    scheme, separator, rest = uri.partition(":")
    if separator and _SCHEME.fullmatch(scheme):
        if scheme != "file":
            raise CardError(f"{card}: {uri!r} has the scheme {scheme!r}; supported: a path, or `file:` and a path.")
        uri = unquote("/" + rest.lstrip("/") if rest.startswith("/") else rest)
    return (card.parent / Path(uri).expanduser()).resolve()

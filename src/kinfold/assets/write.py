"""Writing cards."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import yaml

from kinfold.assets.checksum import Checksum
from kinfold.assets.file import CardFile, decode_card
from kinfold.durable import sync
from kinfold.errors import CardError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


def check_card_name(name: str) -> None:
    """Raise a `CardError` if no card can be called so."""
    if not _NAME.fullmatch(name):
        raise CardError(f"{name!r} cannot be the name of a card.", hint="Letters, digits and `_.+-` can be in one.")


def write_card(
    folder: Path,
    *,
    name: str,
    model_family: str | None = None,
    base: str | None = None,
    model_arch: str | None = None,
    model_config: Mapping[str, Any] | None = None,
    checkpoint: Path | None = None,
    checksum: Checksum | None = None,
    tokenizer: Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the card `name` to `folder`, which is made if it is missing; the file is there complete or not at all.

    Args:
        folder: A folder of cards, such as `user_cards_folder()`.
        name: The name of the card, and of its file.
        model_family: The family of the model; a card with a base can do without.
        base: The name of the card whose values hold where this one has none.
        model_arch: The arch.
        model_config: Fields of the config that differ from the arch; dataclasses become mappings.
        checkpoint: The file or folder of the weights. In the card it is relative if it lies in `folder` or in the
            folder above, so that both can be moved together; else it is absolute.
        checksum: `sha256:` and 64 digits, or one for each file of a folder.
        tokenizer: The file or folder of the tokenizer, likewise.
        overwrite: Whether a card of that name in `folder` is replaced.

    Returns:
        The file.

    Raises:
        CardError: There is such a card, or what would stand in the file is no card.
    """
    folder = Path(folder).expanduser().absolute()
    path = folder / f"{name}.yaml"
    check_card_name(name)
    card = CardFile(
        name=name,
        model_family=model_family,
        model_arch=model_arch,
        model_config=_plain(model_config or {}, path),
        checkpoint=_uri(checkpoint, folder),
        checksum=checksum,
        tokenizer=_uri(tokenizer, folder),
        base=base,
    )
    text = yaml.dump(msgspec.to_builtins(card), Dumper=_Dumper, sort_keys=False, width=120)
    if decode_card(text, path) != card:
        raise CardError(f"{path} would not say what it should:", faults=text.splitlines())
    if path.exists() and not overwrite:
        raise CardError(f"{path} exists.", hint="Choose another name, or have it overwritten.")
    _replace(path, text)
    return path


def _plain(values: Any, path: Path) -> Any:
    """Values of a config in what YAML has: mappings, lists, texts and numbers."""
    try:
        return _lists(msgspec.to_builtins(values))
    except TypeError as error:
        raise CardError(f"{path} cannot say that: {error}") from error


def _lists(values: Any) -> Any:
    """The same with lists for tuples."""
    if isinstance(values, dict):
        return {key: _lists(value) for key, value in values.items()}
    return [_lists(value) for value in values] if isinstance(values, list | tuple) else values


def _uri(path: Path | None, folder: Path) -> str | None:
    """How a card in `folder` says where something lies."""
    if path is None:
        return None
    path, folder = Path(path).expanduser().resolve(), folder.resolve()
    if path.is_relative_to(folder.parent):
        return f"file:{quote(Path(os.path.relpath(path, folder)).as_posix())}"
    return path.as_uri()


def _replace(path: Path, text: str) -> None:
    staged = path.with_name(f".{path.name}.{os.getpid()}")  # no card: its name does not end in .yaml
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        staged.write_text(text, encoding="utf-8")
        sync(staged)
        os.replace(staged, path)
        sync(path.parent)
    except OSError as error:
        with suppress(OSError):
            staged.unlink()
        raise CardError(f"{path} cannot be written: {error}") from error


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, quoting also what `kinfold.documents` takes for a number: `1e5`."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)

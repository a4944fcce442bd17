"""The card of the outcome: what it is called, where it goes, and whether the name is free."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kinfold.assets import AssetCard, card_files, check_card_name, read_card, write_card
from kinfold.errors import CardError, KinfoldError


def check_name(name: str, folder: Path, model: Path) -> None:
    """Make sure that no other card than that of `model` in `folder` is called `name`.

    Raises:
        CardError: There is one, which is said; or nothing can be called so.
    """
    check_card_name(name)
    others = [
        path for path in _called(name, [*card_files(), *folder.glob("*.y*ml")]) if not _is_of(path, folder, model)
    ]
    if others:
        raise CardError(f"There is a card {name!r}: {others[0]}.", hint="Say another `name` for what is to be trained.")


def write_outcome(folder: Path, *, name: str, start: AssetCard, model: Path) -> Path:
    """Write the card of a trained model: its family, arch and config as those it began with, and its own weights."""
    return write_card(
        folder,
        name=name,
        model_family=start.model_family,
        model_arch=start.model_arch,
        model_config=start.model_config,
        checkpoint=model,
        overwrite=True,
    )


def _called(name: str, files: Iterable[Path]) -> set[Path]:
    return {path.resolve() for path in files if path.stem == name}


def _is_of(path: Path, folder: Path, model: Path) -> bool:
    if path.parent != folder.resolve():
        return False
    try:
        place = read_card(path).checkpoint_place
    except KinfoldError:
        return False
    return place is not None and str(place.uri) == str(model.resolve())

"""Where cards lie: in packages of families, in the user's own folder, and where KINFOLD_CARDS says."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

from kinfold.errors import CardError
from kinfold.registry import families

SUFFIXES = (".yaml", ".yml")
VARIABLE = "KINFOLD_CARDS"


_added: list[Path] = []


def add_cards_folder(folder: Path) -> None:
    """Add a folder of cards, such as that of a project that is not installed; it need not be there yet."""
    if folder not in _added:
        _added.append(folder)


def card_files() -> Iterator[Path]:
    """The files of all cards, each once: those of packages, of the project, of the user, of the variable.

    No family is imported.

    Raises:
        CardError: The variable `KINFOLD_CARDS` names something that is no folder.
    """
    seen = set()
    packages = _package_folders(families.modules.values())
    for folder in (*packages, *_added, user_cards_folder(), *_folders_of_variable()):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.suffix in SUFFIXES and (place := path.resolve()) not in seen:
                seen.add(place)
                yield path


def is_card_path(name_or_path: str | Path) -> bool:
    """Whether something that may be a name is rather the path of a card's file."""
    return Path(name_or_path).suffix in SUFFIXES


def user_cards_folder() -> Path:
    """The folder of the user's own cards, which need not be there: `kinfold/cards` in the folder of settings."""
    return _base_folder("XDG_CONFIG_HOME", ".config") / "cards"


def cache_folder() -> Path:
    """The folder of what can be had anew, which need not be there."""
    return _base_folder("XDG_CACHE_HOME", ".cache")


def _base_folder(variable: str, default: str) -> Path:
    """A folder of the XDG Base Directory Specification, which has relative paths passed over."""
    folder = Path(os.environ.get(variable, ""))
    return (folder if folder.is_absolute() else Path.home() / default) / "kinfold"


def _package_folders(modules: Iterable[str]) -> Iterator[Path]:
    """The folders `cards` of all packages that the modules of families are in; nothing is imported."""
    packages = {parent for module in modules for parent in _parents(module)}
    for package in sorted(packages):
        top, _, rest = package.partition(".")
        spec = find_spec(top)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            yield Path(folder, *rest.split(".") if rest else (), "cards")


def _parents(module: str) -> list[str]:
    """`a` and `a.b` of the module `a.b.c`; a module of its own is its own package."""
    parts = module.split(".")
    return [".".join(parts[:end]) for end in range(1, max(len(parts), 2))]


def _folders_of_variable() -> list[Path]:
    folders = [Path(folder).expanduser() for folder in os.environ.get(VARIABLE, "").split(os.pathsep) if folder]
    if missing := [str(folder) for folder in folders if not folder.is_dir()]:
        raise CardError(f"{VARIABLE} names what is no folder:", faults=missing)
    return folders

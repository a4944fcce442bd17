"""Cards that are based on others: finding the others, and whose value is whose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from kinfold.assets.file import CardFile, read_card_file
from kinfold.assets.places import card_files
from kinfold.errors import CardError, nearest


@dataclass(frozen=True)
class Inherited:
    """What a card says, or those say that it is based on.

    Attributes:
        files: The file of the card, then that of its base, and so on.
        values: The values by key; `model_config` merged key by key.
        origins: The file that each value is from, by key; values of the config by `model_config.KEY`.
    """

    files: tuple[Path, ...]
    values: Mapping[str, Any]
    origins: Mapping[str, Path]

    def each(self) -> dict[str, tuple[Any, Path]]:
        """Every value and the file it is from, in the order of the keys; values of the config by `model_config.KEY`."""
        said = {key: self.values[key] for key in CardFile.__struct_fields__ if key in self.values}
        return {key: (value, self.origins[key]) for key, value in _leaves(said).items()}


def inherit(path: Path) -> Inherited:
    """What the card in a file says, or those say that it is based on.

    Raises:
        CardError: One of the cards is malformed, there is no such base or two, or the bases go in a circle.
    """
    values: dict[str, Any] = {}
    origins: dict[str, Path] = {}
    files: list[Path] = []
    chain = _chain(path)
    for file, card in chain:
        files.insert(0, file)
        said = {key: value for key, value in msgspec.structs.asdict(card).items() if value is not None}
        if "checkpoint" in said:  # what the base's weights have says nothing of others
            values.pop("checksum", None)
            origins.pop("checksum", None)
        origins |= dict.fromkeys(_leaves(said), file)
        values = {**values, **said, "model_config": _merged(values.get("model_config", {}), said["model_config"])}
    kept = _leaves(values)
    return Inherited(tuple(files), values, {key: file for key, file in origins.items() if key in kept})


def file_of(name: str, known: Mapping[str, list[Path]] | None = None) -> Path:
    """The file of the card called `name`.

    Raises:
        CardError: There is none (the nearest are named), or there are several.
    """
    known = files_by_name() if known is None else known
    if name not in known:
        raise CardError(f"There is no card {name!r}.", hint=nearest(name, known))
    if len(known[name]) > 1:
        raise CardError(
            f"There are {len(known[name])} cards {name!r}:",
            faults=[str(path) for path in known[name]],
            hint="Rename one of them, or name the file.",
        )
    return known[name][0]


def files_by_name() -> dict[str, list[Path]]:
    """The files of all cards by the name of the card."""
    known: dict[str, list[Path]] = {}
    for path in card_files():
        known.setdefault(path.stem, []).append(path)
    return known


def _chain(path: Path) -> list[tuple[Path, CardFile]]:
    """The file of a card and what it says, behind those it is based on."""
    chain = [(path, read_card_file(path))]
    known = files_by_name() if chain[0][1].base is not None else {}
    while (base := chain[0][1].base) is not None:
        file = _base_file(base, known, [file for file, _ in reversed(chain)])
        chain.insert(0, (file, read_card_file(file)))
    return chain


def _base_file(base: str, known: Mapping[str, list[Path]], files: list[Path]) -> Path:
    """The file of a base; `files` are those that lead to it, and stand in every error."""
    try:
        found = file_of(base, known)
    except CardError as error:
        raise CardError(
            f"The base of {files[-1]} cannot be had. {error.summary}",
            faults=[*error.faults, *_steps(files)],
            hint=error.hint,
        ) from error
    if found.resolve() in {file.resolve() for file in files}:
        raise CardError("The bases of cards go in a circle:", faults=_steps([*files, found]))
    return found


def _steps(files: Iterable[Path]) -> list[str]:
    return [f"{file} has the base {after.stem!r}" for file, after in pairwise(files)]


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid over `under`, mapping by mapping; neither is changed."""
    both = dict(under)
    for key, value in over.items():
        below = both.get(key)
        both[key] = _merged(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    return both


def _leaves(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a card by key; those of its config, however deep, by their dotted names."""
    return {key: value for key, value in values.items() if key != "model_config"} | _flat(
        values["model_config"], "model_config"
    )


def _flat(config: Mapping[str, Any], at: str) -> dict[str, Any]:
    """The values in nested mappings, by their dotted names."""
    flat = {}
    for key, value in config.items():
        name = f"{at}.{key}"
        flat |= _flat(value, name) if isinstance(value, Mapping) and value else {name: value}
    return flat

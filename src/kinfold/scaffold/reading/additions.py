"""What a project teaches the reader: words in names of tensors, and keys of configs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from kinfold.documents import read_document
from kinfold.errors import ProjectError, nearest
from kinfold.scaffold.keymap.inference.words import Vocabulary, extended_vocabulary, standard_vocabulary
from kinfold.scaffold.reading.config_keys import known_keys
from kinfold.scaffold.reading.rope import CONFIG_KEYS as ROPE_KEYS

VOCABULARY = "vocabulary.yaml"
CONFIG_KEYS = "config_keys.yaml"
"""The files, in `.kinfold/`."""


class _ConfigKeys(msgspec.Struct, forbid_unknown_fields=True):
    same_as: dict[str, str] = {}
    without_effect: list[str] = []


@dataclass(frozen=True, slots=True)
class Additions:
    """What is read besides the standard tables.

    Attributes:
        vocabulary: What words in the names of tensors mean.
        same_as: Keys of configs to the known keys that say the same.
        without_effect: Keys that say nothing about the computation.
    """

    vocabulary: Vocabulary = field(default_factory=standard_vocabulary)
    same_as: Mapping[str, str] = field(default_factory=dict)
    without_effect: frozenset[str] = frozenset()

    def applied(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A config under the keys that are known."""
        return {self.same_as.get(key, key): value for key, value in config.items() if key not in self.without_effect}


def project_vocabulary(folder: Path | None) -> Vocabulary:
    """The standard vocabulary, with what a project adds to it in its `.kinfold/`."""
    path = folder / VOCABULARY if folder else None
    return extended_vocabulary(path) if path and path.is_file() else standard_vocabulary()


def read_additions(folder: Path | None) -> Additions:
    """The additions in a project's `.kinfold/`; none where there are no such files.

    Raises:
        KeyMapError: The vocabulary is malformed.
        ProjectError: The keys are, or are to be read as keys that are not known either; lists every fault.
    """
    vocabulary = project_vocabulary(folder)
    keys = folder / CONFIG_KEYS if folder else None
    if keys is None or not keys.is_file():
        return Additions(vocabulary)
    said = read_document(keys, _ConfigKeys, ProjectError)
    known = known_keys() | ROPE_KEYS
    faults = [
        f"same_as: {key}: {same}: there is no such key. {nearest(same, known)}"
        for key, same in said.same_as.items()
        if same not in known
    ]
    if faults:
        raise ProjectError(f"{keys} is not as it should be:", faults=faults)
    return Additions(vocabulary, said.same_as, frozenset(said.without_effect))

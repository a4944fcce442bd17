"""What the words in a tensor's name mean, by the table in `vocabulary.yaml`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec

from kinfold.documents import decode_document
from kinfold.errors import KeyMapError

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")

Words = tuple[str, ...]


def words_of(text: str) -> Words:
    """The words of a name: cut at all but letters and digits, before capitals, and between letters and digits."""
    return tuple(word.lower() for word in _WORD.findall(text))


class Table(msgspec.Struct, forbid_unknown_fields=True):
    """`vocabulary.yaml`, which explains its fields."""

    concepts: dict[str, list[str]]
    implies: dict[str, list[str]]
    norm_order: list[list[str]]
    empty: list[str]
    weights: list[str]
    biases: list[str]
    fused: dict[str, list[str]]
    exclusive: list[list[str]]
    telling: list[str]
    lists: list[str]
    recomputed: dict[str, str]


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a name says.

    Attributes:
        features: Its concepts, and those of its words that the vocabulary does not know.
        leaf: "weight" or "bias" where the name says which of the two it is, else "".
        order: For a norm, where it says that it stands in its layer; None if it does not say.
    """

    features: frozenset[str]
    leaf: str
    order: int | None


class Vocabulary:
    """The table, compiled: phrases by their words."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.telling = frozenset(table.telling)
        self.lists = frozenset(table.lists)
        self.exclusive = [frozenset(group) for group in table.exclusive]
        self._concepts = _by_phrase(table.concepts)
        self._orders = _by_phrase(dict(enumerate(table.norm_order)))
        self._empty = frozenset(table.empty)
        self._recomputed = {tuple(phrase.split()): reason for phrase, reason in table.recomputed.items()}

    def meaning(self, name: str) -> Meaning:
        """What a name says; its holes are written `{}`."""
        *_, leaf = name.split(".")
        words = words_of(name)
        last = words_of(leaf)[-1:]
        kind = "bias" if leaf in self.table.biases or last == ("bias",) else ""
        kind = "weight" if leaf in self.table.weights or last == ("weight",) else kind
        if kind:
            words = words[:-1]
        words = ("^", *words, "$")
        features: set[str] = set()
        for phrase, concepts in _phrases(words, self._concepts):
            if concepts:
                features.update(concepts)
            elif phrase[0] not in self._empty and phrase[0] not in ("^", "$") and not phrase[0].isdigit():
                features.add(f"'{phrase[0]}'")
        for concept in list(features):
            features.update(self.table.implies.get(concept, ()))
        found = [orders[0] for _, orders in _phrases(words, self._orders) if orders]
        return Meaning(frozenset(features), kind, found[-1] if found else None)

    def why_recomputed(self, name: str) -> str | None:
        """Why a tensor of this name is not needed, or None if nothing says so."""
        words = words_of(name)
        for phrase, reason in self._recomputed.items():
            if any(words[n : n + len(phrase)] == phrase for n in range(len(words))):
                return reason
        return None

    def conflict(self, a: frozenset[str], b: frozenset[str]) -> bool:
        """Whether two names speak of things that exclude each other."""
        return any((a & group) and (b & group) and not a & b & group for group in self.exclusive)


@cache
def standard_vocabulary() -> Vocabulary:
    """The vocabulary that comes with Kinfold."""
    text = files(__package__ or __name__).joinpath("vocabulary.yaml").read_text(encoding="utf-8")
    return Vocabulary(decode_document(text, Table, KeyMapError, place="vocabulary.yaml"))


def _by_phrase(lists: Mapping[Any, list[str]]) -> dict[Words, tuple[Any, ...]]:
    phrases: dict[Words, tuple[Any, ...]] = {}
    for name, spellings in lists.items():
        for spelling in spellings:
            words = tuple(str(spelling).split())
            phrases[words] = (*phrases.get(words, ()), name)
    return phrases


def _phrases(words: Words, table: Mapping[Words, tuple[Any, ...]]) -> Iterator[tuple[Words, tuple[Any, ...]]]:
    """The phrases of a table that words consist of, the longest first wherever they stand; other words one by one."""
    longest = max(map(len, table), default=1)
    owner: list[Words | None] = [None] * len(words)
    for length in range(min(longest, len(words)), 0, -1):
        for start in range(len(words) - length + 1):
            phrase = words[start : start + length]
            if phrase in table and not any(owner[start : start + length]):
                owner[start : start + length] = [phrase] * length
    place = 0
    while place < len(words):
        phrase = owner[place] or words[place : place + 1]
        yield phrase, table.get(phrase, ())
        place += len(phrase)

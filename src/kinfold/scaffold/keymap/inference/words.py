"""What the words in a tensor's name mean, by the table in `vocabulary.yaml`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from kinfold.documents import decode_document, read_document
from kinfold.errors import KeyMapError, nearest

_WORD = re.compile(r"[vV][0-9]+|[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")  # v2 is a version, and no value
_COUNTED = re.compile(r"(?<![A-Za-z])[A-Za-z]{2,}[0-9]+(?![A-Za-z0-9])")

Words = tuple[str, ...]

Span = tuple[int, int, tuple[Any, ...]]
"""Where a phrase starts, where it stops, and what it stands for."""


def words_of(text: str) -> Words:
    """The words of a name: cut at all but letters and digits, before capitals, and between letters and digits.

    Only a version stays in one piece: `pvt_v2` is pvt, v2.
    """
    return tuple(word.lower() for word in _WORD.findall(text))


class Table(msgspec.Struct, forbid_unknown_fields=True):
    """`vocabulary.yaml`, which explains its fields."""

    where: dict[str, list[str]]
    what: dict[str, list[str]]
    within: dict[str, dict[str, list[str]]]
    implies: dict[str, list[str]]
    norm_order: list[list[str]]
    empty: list[str]
    weights: list[str]
    biases: list[str]
    fused: dict[str, list[str]]
    exclusive: list[list[str]]
    towers: list[str]
    not_of_norms: list[str]
    telling: list[str]
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
        self.exclusive = [frozenset(group) for group in table.exclusive]
        self.towers = frozenset(table.towers)
        self.not_of_norms = frozenset(table.not_of_norms)
        self._where = _by_phrase(table.where)
        self._what = _by_phrase(table.what)
        self._within = {place: _by_phrase(concepts) for place, concepts in table.within.items()}
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
        features, known = self._where_and_what(words)
        features.update(
            f"'{word}'"
            for number, word in enumerate(words[1:-1], 1)
            if number not in known and word not in self._empty and not word.isdigit()
        )
        features.update(f"'{word.lower()}'" for word in _COUNTED.findall(name))  # beside fpn and 1 also fpn1
        return Meaning(frozenset(features), kind, self._order(name, words))

    def _order(self, name: str, words: Words) -> int | None:
        """Where a norm stands, by the last phrase that is whole segments: `cross_attn_norm` is no `attn_norm`."""
        ends = {1}
        for segment in name.split("."):
            ends.add(max(ends) + len(words_of(segment)))
        ends.add(len(words) - 1)
        found = [found for found in _phrases(words, self._orders) if found[0] in ends and found[1] in ends]
        return found[-1][2][0] if found else None

    def _where_and_what(self, words: Words) -> tuple[set[str], set[int]]:
        """The concepts of a name, and the numbers of the words that they are said by."""
        where, what = _phrases(words, self._where), _phrases(words, self._what)
        end = self._at_end(words, where)
        if end is not None and not any(start <= end[0] and stop >= end[1] for start, stop, _ in what):
            what = [*_phrases(words[: end[0]], self._what), end]
        features = self._with_implied({concept for _, _, concepts in (*where, *what) for concept in concepts})
        return features, {number for start, stop, _ in (*where, *what) for number in range(start, stop)}

    def _at_end(self, words: Words, where: Sequence[Span]) -> Span | None:
        """What the words at the end of a name mean after those for a place, if they mean something there."""
        stop = len(words) - 1
        for start, place_stop, concepts in where:
            while place_stop < stop and words[place_stop].isdigit():
                place_stop += 1
            for place in sorted(self._with_implied(set(concepts)) & self._within.keys()):
                found = self._within[place].get(words[place_stop:stop])
                if found:
                    return start, stop, found
        return None

    def _with_implied(self, concepts: set[str]) -> set[str]:
        return concepts.union(*(self.table.implies.get(concept, ()) for concept in concepts))

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

    def contradict(self, a: frozenset[str], b: frozenset[str]) -> bool:
        """Like `conflict`, but not of a fused tensor and its parts, by one of which some call it."""
        parts = [(one, frozenset(fused)) for one, fused in self.table.fused.items()]
        named_by_a_part = any((one in a and b & of) or (one in b and a & of) for one, of in parts)
        return self.conflict(a, b) and not named_by_a_part


@cache
def standard_vocabulary() -> Vocabulary:
    """The vocabulary that comes with Kinfold."""
    text = files(__package__ or __name__).joinpath("vocabulary.yaml").read_text(encoding="utf-8")
    return Vocabulary(decode_document(text, Table, KeyMapError, place="vocabulary.yaml"))


class Additions(msgspec.Struct, forbid_unknown_fields=True):
    """What a project adds to the table: more phrases for its concepts, in the same form."""

    where: dict[str, list[str]] = {}
    what: dict[str, list[str]] = {}
    within: dict[str, dict[str, list[str]]] = {}
    empty: list[str] = []
    recomputed: dict[str, str] = {}


def extended_vocabulary(path: Path) -> Vocabulary:
    """The standard vocabulary with the additions of a file.

    Raises:
        KeyMapError: The file is malformed, or adds to a concept that there is not; lists every fault.
    """
    table, more = standard_vocabulary().table, read_document(path, Additions, KeyMapError)
    concepts = {**table.where, **table.what, **{name: [] for names in table.within.values() for name in names}}
    named = [*more.where, *more.what, *(name for names in more.within.values() for name in names)]
    faults = [f"{name!r} is no concept. {nearest(name, concepts)}" for name in named if name not in concepts]
    faults += [
        f"{place!r} is no place. {nearest(place, table.within)}" for place in more.within if place not in table.within
    ]
    if faults:
        raise KeyMapError(f"{path} is not as it should be:", faults=faults)
    within = {place: _added(concepts, more.within.get(place, {})) for place, concepts in table.within.items()}
    return Vocabulary(
        msgspec.structs.replace(
            table,
            where=_added(table.where, more.where),
            what=_added(table.what, more.what),
            within=within,
            empty=[*table.empty, *more.empty],
            recomputed={**table.recomputed, **more.recomputed},
        )
    )


def _added(lists: Mapping[str, list[str]], more: Mapping[str, list[str]]) -> dict[str, list[str]]:
    return {name: [*lists.get(name, ()), *more.get(name, ())] for name in {**lists, **more}}


def _by_phrase(lists: Mapping[Any, list[str]]) -> dict[Words, tuple[Any, ...]]:
    phrases: dict[Words, tuple[Any, ...]] = {}
    for name, spellings in lists.items():
        for spelling in spellings:
            words = tuple(str(spelling).split())
            phrases[words] = (*phrases.get(words, ()), name)
    return phrases


def _phrases(words: Words, table: Mapping[Words, tuple[Any, ...]]) -> list[Span]:
    """The phrases of a table that words consist of, the longest first wherever they stand."""
    longest = max(map(len, table), default=1)
    taken = [False] * len(words)
    found: list[Span] = []
    for length in range(min(longest, len(words)), 0, -1):
        for start in range(len(words) - length + 1):
            concepts = table.get(words[start : start + length])
            if concepts and not any(taken[start : start + length]):
                taken[start : start + length] = [True] * length
                found.append((start, start + length, concepts))
    return sorted(found, key=lambda span: span[0])

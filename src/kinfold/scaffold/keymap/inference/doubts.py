"""Names that are not to be believed: `w2` is no down projection where `w1` and `w2` have the same shape."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from kinfold.scaffold.keymap.inference.described import Described
from kinfold.scaffold.keymap.inference.groups import Group
from kinfold.scaffold.keymap.inference.relations import Relation
from kinfold.scaffold.keymap.inference.words import Vocabulary

_COUNTED = re.compile(r"(?<=[A-Za-z_.])[0-9]+(?=\.|_weight|_bias|$)")

Relations = Mapping[tuple[Group, Group], Relation]


@dataclass(frozen=True, slots=True)
class _Numbered:
    """A group whose name says by a number what it is.

    Attributes:
        item: The group.
        number: The number.
        concepts: What it says.
    """

    item: Described
    number: int
    concepts: frozenset[str]


def without_doubtful(
    there: Sequence[Described], here: Sequence[Described], relations: Relations, vocabulary: Vocabulary
) -> tuple[list[Described], list[Described]]:
    """Both sides without what numbers in names say (`fc1`, `w3`), where it cannot be true.

    Names that differ in the number are believed together. They are not if they do not count without gaps, or if of one
    of them nothing fits that the other side calls so, or if one would be transposed and another one not. Nor are three
    or more that fit in any order: some write w2(silu(w1(x)) * w3(x)), others w3(silu(w1(x)) * w2(x)).

    Args:
        there: The foreign groups.
        here: The native groups.
        relations: What goes together by shape.
        vocabulary: What words mean.
    """
    fits: dict[tuple[Group, Group], str] = {}
    for (source, target), relation in relations.items():
        fits[source, target] = fits[target, source] = _kind(relation, source)
    return (
        _believable(there, here, fits, vocabulary),
        _believable(here, there, fits, vocabulary),
    )


def _kind(relation: Relation, group: Group) -> str:
    return "any" if len(set(group.shape[-2:])) == 1 else relation.kind


def _believable(
    side: Sequence[Described],
    others: Sequence[Described],
    fits: Mapping[tuple[Group, Group], str],
    vocabulary: Vocabulary,
) -> list[Described]:
    fused = {
        part
        for item in others
        for name, parts in vocabulary.table.fused.items()
        if name in item.meaning.features
        for part in parts
    }
    doubtful = {
        numbered.item.group: numbered.concepts
        for family in _families(side, vocabulary)
        if not _holds(family, others, fits, fused)
        for numbered in family
    }
    return [_without(item, doubtful.get(item.group, frozenset())) for item in side]


def _families(side: Iterable[Described], vocabulary: Vocabulary) -> Iterable[list[_Numbered]]:
    """Groups whose names are the same but for a number that says what they are."""
    exclusive = frozenset[str]().union(*vocabulary.exclusive)
    families: dict[str, list[_Numbered]] = defaultdict(list)
    for item in side:
        numbers = list(_COUNTED.finditer(item.text))
        if numbers and item.meaning.features & exclusive:
            start, stop = numbers[-1].span()
            bare = vocabulary.meaning(f"{item.text[:start]}{item.text[stop:]}").features
            concepts = item.meaning.features & exclusive - bare
            if concepts:
                key = f"{item.text[:start]}#{item.text[stop:]}"
                families[key].append(_Numbered(item, int(numbers[-1][0]), concepts))
    return families.values()


def _holds(
    family: Sequence[_Numbered],
    others: Sequence[Described],
    fits: Mapping[tuple[Group, Group], str],
    fused: Collection[str],
) -> bool:
    numbers = sorted(numbered.number for numbered in family)
    if numbers != list(range(1, len(numbers) + 1)) or _fit_in_any_order(family, others, fits):
        return False
    kinds: set[str] = {"same", "transpose", "reshape"}
    for numbered in family:
        called = [other for other in others if numbered.concepts <= other.meaning.features]
        found = {kind for other in called if (kind := fits.get((numbered.item.group, other.group)))}
        if called and not found and not numbered.concepts & set(fused):
            return False
        if found and "any" not in found:
            kinds &= found
    return bool(kinds)


def _fit_in_any_order(
    family: Sequence[_Numbered], others: Sequence[Described], fits: Mapping[tuple[Group, Group], str]
) -> bool:
    """Whether there are three or more, and each fits in one way what the other side calls as any of them."""
    if len(family) < 3:
        return False
    kinds: set[str] = {"same", "transpose", "reshape"}
    for meant in family:
        called = [other.group for other in others if meant.concepts <= other.meaning.features]
        for numbered in family:
            found = {kind for other in called if (kind := fits.get((numbered.item.group, other)))}
            kinds &= kinds if "any" in found else found
    return bool(kinds)


def _without(item: Described, concepts: frozenset[str]) -> Described:
    if not concepts:
        return item
    return replace(item, meaning=replace(item.meaning, features=item.meaning.features - concepts))

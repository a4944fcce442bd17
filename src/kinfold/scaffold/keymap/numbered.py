"""Pairings that differ in a number alone, as one: in hybrid models only some layers hold the same modules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from kinfold.scaffold.keymap.inference.groups import Group
from kinfold.scaffold.keymap.pairing import Pairing

_NUMBER = re.compile(r"(?<=\.)(?:0|[1-9][0-9]*)(?=\.)")


def merge_numbered(pairings: Iterable[Pairing]) -> list[Pairing]:
    """Make one pairing of those whose names are the same on both sides but for one number, which is the same on both.

    Numbers that count alike modules are holes already. What is left are those of modules that are not alike, as the
    attention layers among the recurrent ones; a hole takes them all the same.
    """
    found: dict[object, list[tuple[int, Pairing]]] = {}
    for place, pairing in enumerate(pairings):
        number = _number(pairing)
        key = place if number is None else (_texts(pairing), pairing.relation, pairing.dim, pairing.turns)
        found.setdefault(key, []).append((-1 if number is None else number, pairing))
    return [_merged(members) if len(members) > 1 else members[0][1] for members in found.values()]


def _number(pairing: Pairing) -> int | None:
    """The first number in the names of a pairing, if it is the same in all of them."""
    found = {match[0] if (match := _NUMBER.search(group.text)) else None for group in pairing.groups}
    (number, *others) = found
    return None if others or number is None else int(number)


def _texts(pairing: Pairing) -> tuple[str, ...]:
    return tuple(_NUMBER.sub("#", group.text, count=1) for group in pairing.groups)


def _merged(members: Sequence[tuple[int, Pairing]]) -> Pairing:
    _, first = members[0]
    sources, targets = (
        tuple(
            _with_hole([(number, getattr(pairing, side)[place]) for number, pairing in members])
            for place in range(len(getattr(first, side)))
        )
        for side in ("sources", "targets")
    )
    confidence = min(pairing.confidence for _, pairing in members)
    relation = replace(first.relation, over=_moved(first))
    return replace(first, sources=sources, targets=targets, relation=relation, confidence=confidence)


def _moved(pairing: Pairing) -> int:
    """Which hole is run through, once there is the new one."""
    over = pairing.relation.over
    extra = pairing.sources[0] if over > 0 else pairing.targets[0]
    if not over or _place(extra) >= abs(over):
        return over
    return over + 1 if over > 0 else over - 1


def _with_hole(members: Sequence[tuple[int, Group]]) -> Group:
    """One group of several whose names differ in their first number."""
    _, first = members[0]
    place = _place(first)
    parts = tuple(_NUMBER.sub("{}", first.text, count=1).split("{}"))
    tensors = {(*p[:place], number, *p[place:]): info for number, group in members for p, info in group.tensors.items()}
    return Group(parts, tensors)


def _place(group: Group) -> int:
    """How many holes stand in front of the first number of a name."""
    match = _NUMBER.search(group.text)
    return group.text[: match.start()].count("{}") if match else 0

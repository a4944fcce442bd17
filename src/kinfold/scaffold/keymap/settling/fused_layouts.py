"""How the parts of fused tensors may lie: what neither a shape nor, mostly, a name tells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import permutations

from kinfold.keymap.rules import Size
from kinfold.scaffold.keymap.inference.groups import Group
from kinfold.scaffold.keymap.native import NativeSide
from kinfold.scaffold.keymap.pairing import Answer, Pairing, Question, module_of
from kinfold.scaffold.keymap.settling.conventions import fused_convention


def fused_questions(pairings: Iterable[Pairing], native: NativeSide) -> list[Question]:
    """For each fused module, how its parts lie; weights and biases of one lie alike.

    A question has a single answer where the name belongs to a code base that is known to lay them so.
    """
    modules: dict[tuple[str, ...], list[Pairing]] = {}
    for pairing in pairings:
        key = tuple(map(module_of, (*pairing.sources, *pairing.targets)))
        modules.setdefault(key, []).append(pairing)
    return [_question(members, native) for members in modules.values()]


def layouts(pairing: Pairing, native: NativeSide, *, ordered: bool = False) -> list[Pairing]:
    """Every way in which the parts of a fused tensor may lie.

    Args:
        pairing: The tensor and its parts.
        native: The native side, which knows the heads of queries and keys.
        ordered: Whether the order of the parts is known.
    """
    numbers = range(len(_parts(pairing)))
    orders = [tuple(numbers)] if ordered else list(permutations(numbers))
    return [_laid_out(pairing, order, turns) for order in orders for turns in _turns(pairing, native)]


def _question(members: Sequence[Pairing], native: NativeSide) -> Question:
    ways = zip(*(layouts(pairing, native, ordered=True) for pairing in members), strict=True)
    answers = [Answer(tuple(way)) for way in ways]
    first = members[0]
    whole = first.sources[0] if len(first.sources) == 1 else first.targets[0]
    convention = fused_convention(whole.first_name)
    if convention is not None:
        lying, who = convention
        turns = 1 if lying == "one after the other" else next(iter(_heads(first, native)), 1)
        evidence = f"{first.evidence}; they lie {lying}, as in {who}"
        answers = [answer for answer in answers if answer.pairings[0].turns == turns][:1]
        answers = [Answer(tuple(replace(pairing, evidence=evidence) for pairing in a.pairings)) for a in answers]
    return Question(f"how the parts of {module_of(whole)} lie", tuple(answers))


def _laid_out(pairing: Pairing, order: Sequence[int], turns: Size) -> Pairing:
    parts = tuple(_parts(pairing)[number] for number in order)
    sources, targets = (parts, pairing.targets) if len(pairing.sources) > 1 else (pairing.sources, parts)
    return replace(pairing, sources=sources, targets=targets, turns=turns)


def _turns(pairing: Pairing, native: NativeSide) -> list[Size]:
    """In how many turns parts may lie: none, by key-value heads, or row by row if they are equal."""
    found: list[Size] = [1, *_heads(pairing, native)]
    sizes = {group.shape[pairing.dim - abs(_own_hole(pairing))] for group in _parts(pairing)}
    if len(sizes) == 1 and not any(map(native.turns, _parts(pairing))):
        part = _parts(pairing)[0]
        found.append(
            native.size(part.first_name, pairing.dim - _own_hole(pairing)) if part in pairing.targets else sizes.pop()
        )
    return found


def _own_hole(pairing: Pairing) -> int:
    """1 if the parts count through a list that the whole does not, and so have a dimension less; else 0."""
    over = pairing.relation.over
    return int(over < 0 if len(pairing.targets) > 1 else over > 0)


def _heads(pairing: Pairing, native: NativeSide) -> Iterator[Size]:
    """The number of key-value heads, if queries and keys are among the parts, and it is more than one."""
    turning = [group.first_name for group in _parts(pairing) if native.turns(group)]
    fewest = min(turning, key=lambda name: native.turning[name].heads, default="")
    if len(turning) > 1 and native.turning[fewest].heads > 1:
        yield native.heads(fewest)


def _parts(pairing: Pairing) -> tuple[Group, ...]:
    return pairing.sources if len(pairing.sources) > 1 else pairing.targets

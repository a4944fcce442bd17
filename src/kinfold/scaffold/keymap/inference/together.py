"""How well two groups go together by what else is in their modules."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterable
from functools import lru_cache

from kinfold.scaffold.keymap.inference.described import Described, Turn, aligned_turns
from kinfold.scaffold.keymap.inference.groups import Group
from kinfold.scaffold.keymap.inference.scores import OTHER_FIRST, TURN

SIBLINGS = (1.0, 8.0)
"""What it brings if two modules hold alike parameters, and costs if one of the same name does not fit."""

TOGETHER = (3.0, 1.5)
"""What it brings if two modules go together by all else that they hold: of the same module, of one further out."""

ANALOGY = 2.0
"""What it brings if modules of these names go together wherever else they stand."""


class Siblings:
    """Whether the modules of two parameters hold alike ones."""

    def __init__(
        self, there: Iterable[Described], here: Iterable[Described], fitting: Container[tuple[Group, Group]]
    ) -> None:
        self._fitting = fitting
        self._held: tuple[dict[str, dict[str, Group]], ...] = ({}, {})
        self._of: dict[Group, tuple[str, str]] = {}
        for side, held in zip((there, here), self._held, strict=True):
            for item in side:
                module = item.group.text.rpartition(".")[0]
                held.setdefault(module, {})[item.leaf] = item.group
                self._of[item.group] = module, item.leaf

    def __call__(self, a: Group, b: Group) -> float:
        """The score of a pair by what else is in their modules."""
        (there, own), (here, other) = self._of[a], self._of[b]
        if own != other or len(a.parts) != len(b.parts) or not there or not here:
            return 0.0
        one, two = self._held[0][there], self._held[1][here]
        if any((one[leaf], two[leaf]) not in self._fitting for leaf in one.keys() & two.keys() - {own}):
            return -SIBLINGS[1]
        return SIBLINGS[0] if len(one) > 1 and one.keys() == two.keys() else 0.0


class Together:
    """Which modules go together, and what they are called on both sides, by the pairs that were found so far."""

    def __init__(
        self, pairs: Iterable[tuple[Group, Group]], there: Iterable[Described], here: Iterable[Described]
    ) -> None:
        self._pairs = frozenset(pairs)
        self._turns = [{item.group: item.turns for item in side} for side in (there, here)]
        self._held = [Counter(module for group in side for module in _modules(group.text)) for side in self._turns]
        self._counted: dict[str, set[bool]] = defaultdict(set)
        self._common: dict[str, Counter[str]] = defaultdict(Counter)
        self._called: dict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
        self._names: tuple[dict[str, set[tuple[str, str]]], ...] = (defaultdict(set), defaultdict(set))
        for pair in self._pairs:
            self._learn(*pair)

    def _learn(self, a: Group, b: Group) -> None:
        for one, other in self._counting_otherwise(a, b):
            for before in (one.before, other.before):
                self._counted[before].add(one.number == other.number)
        for module in _modules(a.text):
            self._common[module].update(_modules(b.text))
        (outer, name), (other_outer, other_name) = _local(a.text), _local(b.text)
        self._called[name, other_name].add((outer, other_outer))
        self._names[0][name].add((outer, other_outer))
        self._names[1][other_name].add((outer, other_outer))

    def __call__(self, a: Group, b: Group) -> float:
        """The score of a pair by what else is in their modules; the pair itself does not count."""
        if not self._pairs:
            return 0.0
        return self._near(a, b) + ANALOGY * self._analogy(a, b) + self._confirmed(a, b)

    def _near(self, a: Group, b: Group) -> float:
        """In which part what else their modules hold goes together."""
        own = (a, b) in self._pairs
        modules, others = _modules(a.text), _modules(b.text)
        score = 0.0
        for level, weight in enumerate(TOGETHER):
            outwards = slice(level, level + 1 + level)
            parts = [self._part(there, here, own) for there in modules[outwards] for here in others[outwards]]
            score += weight * max(parts, default=0.0)
        return score

    def _part(self, there: str, here: str, own: bool) -> float:
        common = self._common[there][here] - own if there in self._common else 0
        return min(1.0, common / (max(self._held[0][there], self._held[1][here]) - 1)) if common > 0 else 0.0

    def _confirmed(self, a: Group, b: Group) -> float:
        """The rest of what turns bring if numbers count from other ones on, where pairs show that they go upwards."""
        return sum(
            (TURN - OTHER_FIRST) * (1 if one.number == other.number else -1)
            for one, other in self._counting_otherwise(a, b)
            if {True} in (self._counted.get(one.before), self._counted.get(other.before))
        )

    def _counting_otherwise(self, a: Group, b: Group) -> list[tuple[Turn, Turn]]:
        turns, others = self._turns[0][a], self._turns[1][b]
        if not turns or not others:
            return []
        return [pair for pair in aligned_turns(turns, others) if pair[0].counts_otherwise(pair[1])]

    def _analogy(self, a: Group, b: Group) -> float:
        """In which part of the other modules that hold one of these two the other one goes with it."""
        (outer, name), (other_outer, other_name) = _local(a.text), _local(b.text)
        own = {(outer, other_outer)}
        same = self._called.get((name, other_name), own) - own
        return len(same) / len((self._names[0][name] | self._names[1][other_name]) - own) if same else 0.0


@lru_cache(1 << 14)
def _local(text: str) -> tuple[str, str]:
    """The module that holds the module of a parameter, and what that is called in it."""
    module, _, leaf = text.rpartition(".")
    outer, _, name = module.rpartition(".")
    return outer, name if leaf in ("weight", "bias") else f"{name}.{leaf}"


@lru_cache(1 << 14)
def _modules(text: str) -> tuple[str, ...]:
    """The modules that a parameter is in, the innermost first."""
    modules = []
    while "." in text:
        text = text.rpartition(".")[0]
        if not text.endswith("{}"):
            modules.append(text)
    return tuple(modules)

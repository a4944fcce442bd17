"""How well two groups go together by what else is in their modules."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Container, Iterable
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
        self._partners: dict[Group, list[Group]] = defaultdict(list)
        self._common: dict[str, Counter[str]] = defaultdict(Counter)
        self._upwards: dict[str, list[tuple[Group, Group]]] = defaultdict(list)
        self._not_upwards: set[str] = set()
        self._called: dict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
        self._names: tuple[dict[str, set[tuple[str, str]]], ...] = (defaultdict(set), defaultdict(set))
        self._places: dict[tuple[str, str], tuple[_Places, _Places]] = {}
        for pair in self._pairs:
            self._learn(*pair)

    def _learn(self, a: Group, b: Group) -> None:
        self._partners[a].append(b)
        self._partners[b].append(a)
        for module in _modules(a.text):
            self._common[module].update(_modules(b.text))
        for one, other in self._counting_otherwise(a, b):
            for before in (one.before, other.before):
                if one.number == other.number:
                    self._upwards[before].append((a, b))
                else:
                    self._not_upwards.add(before)
        (outer, name), (other_outer, other_name) = _local(a.text), _local(b.text)
        self._called[name, other_name].add((outer, other_outer))
        self._names[0][name].add((outer, other_outer))
        self._names[1][other_name].add((outer, other_outer))

    def __call__(self, a: Group, b: Group) -> float:
        """The score of a pair by what else was paired; what either of the two was paired with does not count."""
        if not self._pairs:
            return 0.0
        return self._near(a, b) + ANALOGY * self._analogy(a, b) + self._confirmed(a, b)

    def _near(self, a: Group, b: Group) -> float:
        """In which part what else their modules hold goes together."""
        modules, others = _modules(a.text), _modules(b.text)
        if not any(module in self._common for module in modules):
            return 0.0
        own = {(a, other) for other in self._partners.get(a, ())} | {(other, b) for other in self._partners.get(b, ())}
        score = 0.0
        for level, weight in enumerate(TOGETHER):
            outwards = slice(level, level + 1 + level)
            parts = [self._part(there, here, own) for there in modules[outwards] for here in others[outwards]]
            score += weight * max(parts, default=0.0)
        return score

    def _part(self, there: str, here: str, own: Iterable[tuple[Group, Group]]) -> float:
        common = self._common[there][here] if there in self._common else 0
        if common:
            common -= sum(there in _modules(one.text) and here in _modules(other.text) for one, other in own)
        return min(1.0, common / (max(self._held[0][there], self._held[1][here]) - 1)) if common > 0 else 0.0

    def _confirmed(self, a: Group, b: Group) -> float:
        """The rest of what turns bring if numbers count from other ones on, where pairs show that they go upwards."""
        return sum(
            (TURN - OTHER_FIRST) * (1 if one.number == other.number else -1)
            for one, other in self._counting_otherwise(a, b)
            if self._goes_upwards(one.before, a, b) or self._goes_upwards(other.before, a, b)
        )

    def _goes_upwards(self, before: str, a: Group, b: Group) -> bool:
        return before not in self._not_upwards and any(
            one is not a and other is not b for one, other in self._upwards.get(before, ())
        )

    def _counting_otherwise(self, a: Group, b: Group) -> list[tuple[Turn, Turn]]:
        turns, others = self._turns[0][a], self._turns[1][b]
        if not turns or not others:
            return []
        return [pair for pair in aligned_turns(turns, others) if pair[0].counts_otherwise(pair[1])]

    def _analogy(self, a: Group, b: Group) -> float:
        """In which part of the other modules that hold one of these two the other one goes with it."""
        (outer, name), (other_outer, other_name) = _local(a.text), _local(b.text)
        called = self._called.get((name, other_name))
        if called is None:
            return 0.0
        if (name, other_name) not in self._places:
            either = self._names[0][name] | self._names[1][other_name]
            self._places[name, other_name] = _Places(called), _Places(either)
        same, either = (places.elsewhere(outer, other_outer) for places in self._places[name, other_name])
        return same / either if same else 0.0


class _Places:
    """Pairs of modules."""

    def __init__(self, pairs: Collection[tuple[str, str]]) -> None:
        self._pairs = pairs
        self._there = Counter(there for there, _ in pairs)
        self._here = Counter(here for _, here in pairs)

    def elsewhere(self, there: str, here: str) -> int:
        """How many of the pairs have neither of two modules."""
        return len(self._pairs) - self._there[there] - self._here[here] + ((there, here) in self._pairs)


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

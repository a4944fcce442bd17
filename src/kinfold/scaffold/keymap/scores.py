"""How well two groups go together by their names, and by what their neighbours go with."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log2

from kinfold.scaffold.keymap.groups import Group
from kinfold.scaffold.keymap.words import Meaning, Vocabulary

_NUMBER = re.compile(r"[0-9]+")

CONFLICT = 4.0
"""What it costs if names speak of things that exclude each other."""

SILENT = 3.0
"""The most that it costs if one name says what the other does not."""

TURN = 1.0
"""What it brings if two names have the same turn among names that differ in one number, and costs if not."""

ORDER = 5.0
"""What it brings if two norms have the same place in their layers, and costs if not."""

SAME_NAME = 6.0
"""What it brings to be called the same on both sides."""

TOGETHER = (3.0, 1.5)
"""What it brings if two modules go together by all else that they hold: of the same module, of one further out."""


@dataclass(frozen=True, slots=True)
class Described:
    """A group, and what its name says.

    Attributes:
        group: The group.
        meaning: What its name says.
        rank: For one of several norms of a layer, which one by their order; None if the names do not say.
        norms: How many norms its layer has.
        turns: For each number in its name, which one it is of how many that stand there in names like it.
    """

    group: Group
    meaning: Meaning
    rank: int | None = None
    norms: int = 0
    turns: frozenset[tuple[int, int]] = frozenset()


def describe(groups: Iterable[Group], vocabulary: Vocabulary) -> list[Described]:
    """What the names of one side say."""
    described = [Described(group, vocabulary.meaning(group.text)) for group in groups]
    layers: dict[tuple, list[Described]] = defaultdict(list)
    for item in described:
        if _is_norm(item) and item.group.lists:
            layers[item.group.lists, item.group.places, item.group.shape, item.meaning.leaf].append(item)
    ranks: dict[Group, tuple[int | None, int]] = {}
    for norms in layers.values():
        orders = [item.meaning.order for item in norms if item.meaning.order is not None]
        known = len(set(orders)) == len(norms)
        for item in norms:
            rank = sorted(orders).index(item.meaning.order) if known and item.meaning.order is not None else None
            ranks[item.group] = rank, len(norms)
    turns = _turns([item.group for item in described])
    return [
        Described(item.group, item.meaning, *ranks.get(item.group, (None, 0)), turns[item.group]) for item in described
    ]


def _turns(groups: Sequence[Group]) -> dict[Group, frozenset[tuple[int, int]]]:
    """For each number in a name: which one it is, of how many in names that are the same but for it."""
    alike: dict[str, set[int]] = defaultdict(set)
    places: dict[Group, list[tuple[str, int]]] = {}
    for group in groups:
        found = places.setdefault(group, [])
        for number in _NUMBER.finditer(group.text):
            key = f"{group.text[: number.start()]}#{group.text[number.end() :]}"
            alike[key].add(int(number[0]))
            found.append((key, int(number[0])))
    return {
        group: frozenset(
            (sorted(alike[key]).index(number), len(alike[key])) for key, number in found if len(alike[key]) > 1
        )
        for group, found in places.items()
    }


def _is_norm(item: Described) -> bool:
    features = item.meaning.features
    return "norm" in features and len(item.group.shape) == 1 and not features & {"q", "k", "v", "kv"}


class NameScores:
    """Scores of pairs by their names; what is said by few names counts more than what is said by many."""

    def __init__(self, there: Iterable[Described], here: Iterable[Described], vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        sides = [list(there), list(here)]
        counts = Counter(feature for side in sides for item in side for feature in item.meaning.features)
        total = sum(map(len, sides))
        self._weights = {feature: log2(1 + total / count) for feature, count in counts.items()}

    def __call__(self, a: Described, b: Described) -> float:
        """The score of a pair."""
        one, other = a.meaning.features, b.meaning.features
        if a.rank is not None and b.rank is not None and a.norms == b.norms:
            return ORDER if a.rank == b.rank else -ORDER
        score = sum(min(4.0, self._weights[feature]) for feature in one & other)
        silent = sum(
            min(4.0, self._weights[feature]) * (0.5 if feature in self._vocabulary.telling else 0.1)
            for feature in one ^ other
        )
        score -= min(SILENT, silent)
        score -= CONFLICT * self._vocabulary.conflict(one, other)
        if {count for _, count in a.turns} & {count for _, count in b.turns}:
            score += TURN if a.turns & b.turns else -TURN
        return score + SAME_NAME * (a.group.text == b.group.text)


class Togetherness:
    """Which modules go together, by the pairs that were found so far."""

    def __init__(self, pairs: Mapping[Group, Group], sources: Iterable[Group], targets: Iterable[Group]) -> None:
        self._pairs = pairs
        self._held = [Counter(module for group in side for module in _modules(group)) for side in (sources, targets)]
        self._common = Counter((there, here) for a, b in pairs.items() for there in _modules(a) for here in _modules(b))

    def __call__(self, a: Group, b: Group) -> float:
        """The score of a pair by what else is in their modules; the pair itself does not count."""
        own = self._pairs.get(a) is b
        levels = []
        for level, weight in enumerate(TOGETHER):
            best = 0.0
            for there in list(_modules(a))[level : level + 1 + level]:
                for here in list(_modules(b))[level : level + 1 + level]:
                    others = max(self._held[0][there], self._held[1][here]) - 1
                    if others:
                        best = max(best, (self._common[there, here] - own) / others)
            levels.append(weight * best)
        return sum(levels)


def _modules(group: Group) -> Iterator[str]:
    """The modules that a parameter is in, the innermost first."""
    text = group.text
    while "." in text:
        text = text.rpartition(".")[0]
        if not text.endswith("{}"):
            yield text

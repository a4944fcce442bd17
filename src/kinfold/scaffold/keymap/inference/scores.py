"""How well two groups go together by their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import log2

from kinfold.scaffold.keymap.inference.described import Described, Turn, aligned_turns
from kinfold.scaffold.keymap.inference.words import Vocabulary

MOST = 4.0
"""The most that one concept brings or costs."""

CONFLICT = 4.0
"""What it costs if names speak of things that exclude each other."""

SILENT = 3.0
"""The most that it costs if one name says what the other does not."""

TELLING = 1.0
"""What it costs if one name says what both would say, and the other does not: as much for each, however rare it is."""

ABBREVIATED = 0.6
"""What a word counts that could stand for another one, as `spk` does for `speaker`."""

SHORTEST = 3
"""How many letters such a short word has at least."""

TURN = 1.0
"""What it brings if two names have the same turn among names that differ in one number, and costs if not."""

OTHER_FIRST = 0.2
"""The same where one side counts from another number on than the other: maybe in the other direction, too."""

ORDER = 5.0
"""What it brings if two norms have the same place in their layers, and costs if not."""

NEAR_ORDER = 2.0
"""The same where the names of some norms of the layer do not say their place."""

SAME_NAME = 6.0
"""What it brings to be called the same on both sides."""

SAME_END = (1.5, 4.5)
"""What it brings if names end in the same segments: for each, and at most."""

LEAF = 4.0
"""What it costs if the names end in two words that both sides have, and could have had both."""

NOT_BIAS = 1.5
"""What it costs if one is said to be a bias, and the other is not."""


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the features of a name are worth.

    Attributes:
        silence: What it costs if the other name says none of them.
        unknown: Those that are words in no list.
        exclusive: Those that exclude others.
    """

    silence: float
    unknown: frozenset[str]
    exclusive: frozenset[str]


class NameScores:
    """Scores of pairs by their names; what is said by few names counts more than what is said by many."""

    def __init__(self, there: Iterable[Described], here: Iterable[Described], vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        sides = [list(there), list(here)]
        counts = Counter(feature for side in sides for item in side for feature in item.meaning.features)
        total = sum(map(len, sides))
        self._weights = {feature: min(MOST, log2(1 + total / count)) for feature, count in counts.items()}
        self._silence = {
            feature: TELLING if feature in vocabulary.telling else 0.1 * weight
            for feature, weight in self._weights.items()
        }
        self._exclusive = frozenset[str]().union(*vocabulary.exclusive)
        self._of_features: dict[frozenset[str], _Facts] = {}
        leaves = [{item.leaf for item in side} for side in sides]
        self._leaves = leaves[0] & leaves[1]
        self._known: dict[tuple[frozenset[str], frozenset[str]], float] = {}

    def __call__(self, a: Described, b: Described) -> float:
        """The score of a pair."""
        one, other = a.meaning.features, b.meaning.features
        score = _turns_score(a.turns, b.turns) + self._ends(a, b)
        if a.rank is not None and b.rank is not None and a.norms == b.norms:
            towers = self._vocabulary.towers
            return score + self._said(one & towers, other & towers) + (ORDER if a.rank == b.rank else -ORDER)
        if a.norms and b.norms and a.meaning.order is not None and b.meaning.order is not None:
            score += NEAR_ORDER * max(-1.0, 1 - abs(a.meaning.order - b.meaning.order) / 2)
        if a.norms > 1 and b.norms > 1:
            one, other = one - self._vocabulary.not_of_norms, other - self._vocabulary.not_of_norms
        return score + self._said(one, other)

    def conflict(self, a: Described, b: Described) -> float:
        """What the score of a pair is less by because of what excludes each other."""
        return CONFLICT * self._vocabulary.conflict(a.meaning.features, b.meaning.features)

    def _said(self, one: frozenset[str], other: frozenset[str]) -> float:
        """What two names say together, less what one says alone."""
        if (known := self._known.get((one, other))) is not None:
            return known
        a, b, weights, silence = self._facts(one), self._facts(other), self._weights, self._silence
        score, silent = 0.0, a.silence + b.silence
        for feature in one & other:
            score += weights[feature]
            silent -= 2 * silence[feature]
        for word, match in _abbreviated(a.unknown - b.unknown, b.unknown - a.unknown):
            score += ABBREVIATED * min(weights[word], weights[match])
            silent -= silence[word] + silence[match]
        if a.exclusive and b.exclusive:
            score -= CONFLICT * self._vocabulary.conflict(a.exclusive, b.exclusive)
        self._known[one, other] = score - min(SILENT, silent)
        return self._known[one, other]

    def _facts(self, features: frozenset[str]) -> _Facts:
        if features not in self._of_features:
            self._of_features[features] = _Facts(
                sum(self._silence[feature] for feature in features),
                frozenset(feature for feature in features if feature[0] == "'"),
                features & self._exclusive,
            )
        return self._of_features[features]

    def _ends(self, a: Described, b: Described) -> float:
        """What the ends of two names bring, from the last segment on."""
        if a.group.text == b.group.text:
            return SAME_NAME
        score = 0.0
        if a.leaf != b.leaf:
            if a.leaf in self._leaves and b.leaf in self._leaves:
                score -= LEAF
            elif "bias" in (a.leaf, b.leaf):
                score -= NOT_BIAS
        same = 0
        for one, other in zip(reversed(a.group.text.split(".")), reversed(b.group.text.split(".")), strict=False):
            if one != other:
                break
            same += not one.isdigit() and one not in ("weight", "bias", "{}")
        return score + min(SAME_END[1], SAME_END[0] * same)


def _turns_score(a: tuple[Turn, ...], b: tuple[Turn, ...]) -> float:
    """What the same turns bring, less what others cost."""
    return sum(
        (OTHER_FIRST if one.counts_otherwise(other) else TURN) * (1 if one.number == other.number else -1)
        for one, other in aligned_turns(a, b)
    )


def _abbreviated(words: frozenset[str], others: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Pairs of quoted words of which one could be short for the other, each word in at most one."""
    if words and others:
        left = sorted(others)
        for word in sorted(words):
            match = next((other for other in left if other[1] == word[1] and _could_be(word, other)), None)
            if match is not None:
                left.remove(match)
                yield word, match


@lru_cache(1 << 14)
def _could_be(one: str, other: str) -> bool:
    """Whether one of two quoted words is short for the other: it has the same beginning, or some letters in order."""
    short, long = sorted((one.strip("'"), other.strip("'")), key=len)
    if len(short) < SHORTEST:
        return False
    if len(short) > SHORTEST and short[:4] == long[:4]:
        return True
    letters = iter(long)
    return len(short) < len(long) and all(letter in letters for letter in short)

"""What the names of one side say, and their numbers."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from kinfold.scaffold.keymap.inference.groups import Group
from kinfold.scaffold.keymap.inference.words import Meaning, Vocabulary

_NUMBER = re.compile(r"[0-9]+")
_COUNTED = re.compile(r"(?<=[A-Za-z_])([0-9]+)(?![A-Za-z0-9{])")
_LAYER = re.compile(r".*[0-9]+\.")


@dataclass(frozen=True, slots=True)
class Turn:
    """A number in a name, if other names differ only in it.

    Attributes:
        number: Which one of them it is, from 0.
        count: Of how many.
        first: The number of the first one, if they count without gaps.
        before: The name up to it, with `#` for its other numbers.
    """

    number: int
    count: int
    first: int | None
    before: str

    def counts_otherwise(self, other: Turn) -> bool:
        """Whether the two count from different numbers on."""
        return self.first is not None and other.first is not None and self.first != other.first


@dataclass(frozen=True, slots=True)
class Described:
    """A group, and what its name says.

    Attributes:
        group: The group.
        text: Its name as it was read: with numbers that count from 1.
        meaning: What its name says.
        leaf: "weight" or "bias" if the name says so, else its last segment.
        rank: For one of several norms of a layer, which one by their order; None if the names do not say.
        norms: How many norms its layer has.
        turns: The numbers in its name that tell it apart from others, from left to right.
    """

    group: Group
    text: str
    meaning: Meaning
    leaf: str
    rank: int | None = None
    norms: int = 0
    turns: tuple[Turn, ...] = ()


def describe(groups: Iterable[Group], vocabulary: Vocabulary) -> list[Described]:
    """What the names of one side say."""
    groups = list(groups)
    known = {group.text for group in groups}
    texts = {group: _from_one(group.text, known) for group in groups}
    meanings = {group: vocabulary.meaning(text) for group, text in texts.items()}
    turns = _turns(groups)
    ranks = _ranks(meanings, turns, vocabulary)
    return [
        Described(
            group,
            texts[group],
            meaning,
            meaning.leaf or group.text.rpartition(".")[2].lower(),
            *ranks.get(group, (None, 0)),
            turns[group],
        )
        for group, meaning in meanings.items()
    ]


def _from_one(text: str, texts: Collection[str]) -> str:
    """A name whose numbers count from 1, as the vocabulary has them, where others on its side count from 0 or none."""
    for number in reversed(list(_COUNTED.finditer(text))):
        start, stop = number.span(1)
        before, after = text[:start], text[stop:]
        if number[1] == "0" or f"{before}0{after}" in texts or f"{before.rstrip('_')}{after}" in texts:
            text = f"{before}{int(number[1]) + 1}{after}"
    return text


def _ranks(
    meanings: Mapping[Group, Meaning], turns: Mapping[Group, Sequence[Turn]], vocabulary: Vocabulary
) -> dict[Group, tuple[int | None, int]]:
    """For each norm of a layer: which one it is, if the names of all say it, and of how many."""
    layers: dict[tuple, list[Group]] = defaultdict(list)
    for group, meaning in meanings.items():
        layer = group.lists or ((found[0],) if (found := _LAYER.match(group.text)) else ())
        if layer and _is_norm(group, meaning, vocabulary):
            layers[layer, group.places, group.shape, meaning.leaf].append(group)
    ranks: dict[Group, tuple[int | None, int]] = {}
    for norms in layers.values():
        said = [meanings[norm].order for norm in norms]
        if len(set(said) - {None}) < len(norms):
            said = [
                turns[norm][-1].number if turns[norm] and turns[norm][-1].count == len(norms) else None
                for norm in norms
            ]
        orders = sorted(order for order in said if order is not None)
        known = len(set(orders)) == len(norms)
        for norm, order in zip(norms, said, strict=True):
            ranks[norm] = orders.index(order) if known and order is not None else None, len(norms)
    return ranks


def _is_norm(group: Group, meaning: Meaning, vocabulary: Vocabulary) -> bool:
    """Whether it is a norm, and not one of queries or keys."""
    if "norm" not in meaning.features or len(group.shape) != 1:
        return False
    own = vocabulary.meaning(".".join(group.text.split(".")[-3:])).features
    return not own & {"q", "k", "v", "kv"}


def _turns(groups: Sequence[Group]) -> dict[Group, tuple[Turn, ...]]:
    """The numbers in each name that tell it apart from names that are the same but for the number, or have none."""
    texts = {group.text for group in groups}
    numbers = {
        group: [(f"{group.text[: n.start()]}#{group.text[n.end() :]}", int(n[0])) for n in _NUMBER.finditer(group.text)]
        for group in groups
    }
    alike: dict[str, set[int]] = defaultdict(set)
    for key, number in (found for of_group in numbers.values() for found in of_group):
        alike[key].add(number)
    bare: dict[str, list[str]] = defaultdict(list)
    for key in alike:
        if (text := key.replace("_#", "")) in texts:
            bare[text].append(key)
            alike[key].add(-1)
    ordered = {key: sorted(found) for key, found in alike.items() if len(found) > 1}
    return {
        group: tuple(
            Turn(ordered[key].index(number), len(ordered[key]), _first(ordered[key]), _before(key))
            for key, number in [*found, *((key, -1) for key in bare[group.text])]
            if key in ordered
        )
        for group, found in numbers.items()
    }


def _first(numbers: Sequence[int]) -> int | None:
    return numbers[0] if numbers[-1] - numbers[0] == len(numbers) - 1 else None


def _before(key: str) -> str:
    return _NUMBER.sub("#", key.partition("#")[0])


@lru_cache(1 << 14)
def aligned_turns(a: tuple[Turn, ...], b: tuple[Turn, ...]) -> tuple[tuple[Turn, Turn], ...]:
    """The most numbers that are of as many on both sides, from left to right; of several ways that with equal turns."""
    best: dict[tuple[int, int], tuple[tuple[int, int], tuple[tuple[Turn, Turn], ...]]] = {}
    for row in range(len(a) + 1):
        for column in range(len(b) + 1):
            ways = [best[row - 1, column]] if row else []
            ways += [best[row, column - 1]] if column else []
            if row and column and a[row - 1].count == b[column - 1].count:
                (count, equal), pairs = best[row - 1, column - 1]
                pair = a[row - 1], b[column - 1]
                ways.append(((count + 1, equal + (pair[0].number == pair[1].number)), (*pairs, pair)))
            best[row, column] = max(ways, key=lambda way: way[0], default=((0, 0), ()))
    return best[len(a), len(b)][1]

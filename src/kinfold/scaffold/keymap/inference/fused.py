"""Fused tensors: one there that is several here, or several there that are one here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from kinfold.scaffold.keymap.inference.assignment import best_pairs
from kinfold.scaffold.keymap.inference.described import Described
from kinfold.scaffold.keymap.inference.groups import Group, Place
from kinfold.scaffold.keymap.inference.lists import Alignment
from kinfold.scaffold.keymap.inference.relations import Kind, Relation, kind_of_shapes
from kinfold.scaffold.keymap.inference.scores import NameScores
from kinfold.scaffold.keymap.inference.words import Vocabulary

MOST_PARTS = 4

MOST_SIBLINGS = 12
"""How many parameters of one module may be tried as parts of a fused one."""

SAID = 4.0
"""How sure it is that a tensor is fused if its name says so, and sizes add up."""

UNSAID = 0.9
"""How sure it is at most if its name does not say it: then it does not say in which order its parts lie either."""

BEFORE_NAMES = 10.0
"""By how much that sureness counts for more than how alike names are."""


@dataclass(frozen=True, slots=True)
class Fusion:
    """Groups of which one is several of the other side, joined along a dimension.

    Attributes:
        sources: The foreign groups.
        targets: The native groups; on one side there is a single group. The others are in the order they are joined.
        relation: What happens to the whole beside being joined; `over` as in `Relation`.
        dim: The dimension in which the whole, with the shape it has here, is joined.
        margin: How sure it is that these are parts of such a whole, as `Decision.margin`.
        likeness: How alike the names are: the least of the parts, and that of the whole and the parts together.
        evidence: What speaks for it.
    """

    sources: tuple[Group, ...]
    targets: tuple[Group, ...]
    relation: Relation
    dim: int
    margin: float
    likeness: float
    evidence: str

    @property
    def groups(self) -> frozenset[Group]:
        """All groups of both sides."""
        return frozenset((*self.sources, *self.targets))


@dataclass(frozen=True, slots=True)
class _Flat:
    """A group seen from the lists that both sides have: what it is counted by beyond them is its first dimension."""

    item: Described
    lists: tuple[str, ...]
    places: frozenset[Place]
    shapes: tuple[tuple[int, ...], ...]
    over: int


def find_fusions(
    there: Sequence[Described],
    here: Sequence[Described],
    fitting: set[Group],
    names: NameScores,
    lists: Alignment,
    vocabulary: Vocabulary,
) -> list[Fusion]:
    """All that fused tensors could be: those that a name says are fused, and those that fit nothing in one piece.

    Args:
        there: The foreign groups.
        here: The native groups.
        fitting: The groups that go with one of the other side in one piece.
        names: Scores of names.
        lists: Which lists go together.
        vocabulary: What words mean.
    """
    sources = [flat for item in there if (flat := _flat(item, lists.there))]
    targets = [flat for item in here if (flat := _flat(item, lists.here))]
    found = [*_of_side(sources, targets, fitting, names, vocabulary, forward=True)]
    return [*found, *_of_side(targets, sources, fitting, names, vocabulary, forward=False)]


def choose_fusions(found: Sequence[Fusion], together: Callable[[Group, Group], float]) -> list[Fusion]:
    """The fusions that are most likely, no group in two of them, each as sure as it is ahead of the others.

    Args:
        found: The fusions to choose from.
        together: What speaks for it that a foreign group and a native one go together, beside their names.
    """
    scores = {
        fusion: BEFORE_NAMES * fusion.margin
        + fusion.likeness
        + max(together(source, target) for source in fusion.sources for target in fusion.targets)
        for fusion in found
    }
    chosen: list[Fusion] = []
    while scores:
        taken: set[Group] = set()
        best = _best(scores)
        for fusion in sorted(best, key=lambda fusion: -scores[fusion]):
            if not fusion.groups & taken:
                chosen.append(replace(fusion, margin=min(fusion.margin, best[fusion])))
                taken |= fusion.groups
        scores = {fusion: score for fusion, score in scores.items() if best and not fusion.groups & taken}
    return chosen


def _best(scores: Mapping[Fusion, float]) -> dict[Fusion, float]:
    """The fusions with the largest total score, no whole and no set of parts in two of them, and their margins."""
    table: dict[tuple[Group, frozenset[Group]], Fusion] = {}
    for fusion in sorted(scores, key=scores.__getitem__):
        table[_whole(fusion), fusion.groups - {_whole(fusion)}] = fusion
    wholes, parts = (
        {key: number for number, key in enumerate(dict.fromkeys(side))} for side in zip(*table, strict=True)
    )
    pairs = {(wholes[whole], parts[rest]): fusion for (whole, rest), fusion in table.items()}
    best = best_pairs({pair: scores[fusion] for pair, fusion in pairs.items()}, len(wholes), len(parts))
    return {pairs[row, column]: margin for row, (column, margin, _) in best.items()}


def _whole(fusion: Fusion) -> Group:
    return fusion.sources[0] if len(fusion.sources) == 1 else fusion.targets[0]


def _flat(item: Described, known: Mapping[str, str]) -> _Flat | None:
    group = item.group
    extra = [hole for hole, name in enumerate(group.lists) if name not in known]
    if len(extra) > 1 or (extra and len(group.shapes) > 1):
        return None
    lists = tuple(known[name] for name in group.lists if name in known)
    if not extra:
        shapes = [group.tensors[place].shape for place in sorted(group.tensors)]
        return _Flat(item, lists, group.places, tuple(shapes), 0)
    (hole,) = extra
    counts: dict[Place, int] = defaultdict(int)
    for place in group.tensors:
        counts[place[:hole] + place[hole + 1 :]] += 1
    if len(set(counts.values())) > 1:
        return None
    shape = (next(iter(counts.values())), *group.shape)
    return _Flat(item, lists, frozenset(counts), (shape,) * len(counts), hole + 1)


def _of_side(
    wholes: Sequence[_Flat],
    parts: Sequence[_Flat],
    fitting: set[Group],
    names: NameScores,
    vocabulary: Vocabulary,
    *,
    forward: bool,
) -> Iterator[Fusion]:
    siblings: dict[tuple, list[_Flat]] = defaultdict(list)
    for part in parts:
        siblings[part.item.group.parent, part.lists, part.places].append(part)
    said = {feature for part in parts for feature in part.item.meaning.features}
    for whole in wholes:
        named = [name for name in vocabulary.table.fused if name in whole.item.meaning.features]
        if whole.item.group in fitting and (not named or any(name in said for name in named)):
            continue
        says = [vocabulary.table.fused[name] for name in named]
        for (_, native, places), group in siblings.items():
            if (native, places) == (whole.lists, whole.places):
                for chosen in _choices(whole, group, says):
                    fusion = _fusion(whole, chosen, says, names, forward=forward)
                    if fusion:
                        yield fusion


def _choices(whole: _Flat, group: Iterable[_Flat], says: Sequence[Sequence[str]]) -> Iterator[tuple[_Flat, ...]]:
    """Which of the parts in one module could be the whole together; none where they are too many to tell them apart."""
    fits = [part for part in group if _could_be_part(part, whole)]
    for order in says:
        called = [part for part in fits if part.item.meaning.features & set(order)]
        if len(called) <= MOST_SIBLINGS:
            yield from combinations(called, len(order))
    if not says and len(fits) <= MOST_SIBLINGS:
        for count in range(2, min(MOST_PARTS, len(fits)) + 1):
            yield from combinations(fits, count)


def _could_be_part(part: _Flat, whole: _Flat) -> bool:
    """Whether it is a weight as the whole is or a bias as the whole is, and no size is larger."""
    if {part.item.meaning.leaf, whole.item.meaning.leaf} == {"weight", "bias"}:
        return False
    one, other = part.shapes[0], whole.shapes[0]
    return len(one) == len(other) and all(a <= b for a, b in zip(sorted(one), sorted(other), strict=True))


def _fusion(
    whole: _Flat, parts: Sequence[_Flat], says: Sequence[Sequence[str]], names: NameScores, *, forward: bool
) -> Fusion | None:
    ways = {
        join_of_shapes(shapes, made)
        for *shapes, made in {*zip(*(part.shapes for part in parts), whole.shapes, strict=True)}
    }
    joined = ways.pop() if len(ways) == 1 else None
    if joined is None:
        return None
    if len({part.over for part in parts}) > 1 or (whole.over and parts[0].over):
        return None
    dim, kind = joined
    pairs = [(whole.item, part.item) if forward else (part.item, whole.item) for part in parts]
    likeness = min(names(*pair) + names.conflict(*pair) for pair in pairs)
    order = next((order for order in says if _ordered(parts, order)), None)
    if order is not None:
        parts = _ordered(parts, order)
        margin, evidence = SAID, f"its name says that it holds {', '.join(order)}, and sizes add up"
    elif not says:
        margin, evidence = UNSAID, "it fits nothing in one piece, and sizes add up"
    else:
        return None
    over = whole.over or -parts[0].over
    groups = tuple(part.item.group for part in parts)
    one = (whole.item.group,)
    sources, targets = (one, groups) if forward else (groups, one)
    return Fusion(sources, targets, Relation(kind, over if forward else -over), dim, margin, likeness, evidence)


def _ordered(parts: Sequence[_Flat], order: Sequence[str]) -> list[_Flat]:
    """The parts in the order of these concepts, if each says one of them; else nothing."""
    found = [[part for part in parts if concept in part.item.meaning.features] for concept in order]
    if len(order) != len(parts) or any(len(group) != 1 for group in found):
        return []
    return [group[0] for group in found]


def join_of_shapes(shapes: Sequence[tuple[int, ...]], whole: tuple[int, ...]) -> tuple[int, Kind] | None:
    """Along which dimension tensors of these shapes are the whole, and whether that is transposed."""
    if len({len(shape) for shape in shapes}) > 1:
        return None
    for dim in range(len(shapes[0])):
        if len({shape[:dim] + shape[dim + 1 :] for shape in shapes}) == 1:
            made = (*shapes[0][:dim], sum(shape[dim] for shape in shapes), *shapes[0][dim + 1 :])
            kind = kind_of_shapes(whole, made)
            if kind in ("same", "transpose"):
                return dim, kind
    return None

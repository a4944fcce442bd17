"""Fused tensors: one there that is several here, or several there that are one here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from kinfold.scaffold.keymap.groups import Group, Place
from kinfold.scaffold.keymap.relations import Kind, Relation, kind_of_shapes
from kinfold.scaffold.keymap.scores import Described, NameScores
from kinfold.scaffold.keymap.words import Vocabulary

MOST_PARTS = 4


@dataclass(frozen=True, slots=True)
class Fusion:
    """Groups of which one is several of the other side, joined along a dimension.

    Attributes:
        sources: The foreign groups.
        targets: The native groups; on one side there is a single group. The others are in the order they are joined.
        relation: What happens to the whole beside being joined; `over` as in `Relation`.
        dim: The dimension in which the whole, with the shape it has here, is joined.
        margin: How sure it is, as `Decision.margin`.
        evidence: What speaks for it.
    """

    sources: tuple[Group, ...]
    targets: tuple[Group, ...]
    relation: Relation
    dim: int
    margin: float
    evidence: str


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
    lists: Mapping[str, str],
    vocabulary: Vocabulary,
) -> list[Fusion]:
    """Fused tensors: those that a name says are fused, and those that fit nothing in one piece.

    Args:
        there: The foreign groups.
        here: The native groups.
        fitting: The groups that go with one of the other side in one piece.
        names: Scores of names.
        lists: The native list of each foreign one.
        vocabulary: What words mean.
    """
    sources = [flat for item in there if (flat := _flat(item, {name: lists[name] for name in lists}))]
    targets = [flat for item in here if (flat := _flat(item, {name: name for name in lists.values()}))]
    found = [*_of_side(sources, targets, fitting, names, vocabulary, forward=True)]
    found += _of_side(targets, sources, fitting, names, vocabulary, forward=False)
    chosen: list[Fusion] = []
    taken: set[Group] = set()
    for fusion in sorted(found, key=lambda fusion: -fusion.margin):
        groups = {*fusion.sources, *fusion.targets}
        if not groups & taken:
            chosen.append(fusion)
            taken |= groups
    return chosen


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
        ranked: list[Fusion] = []
        for (_, native, places), group in siblings.items():
            if (native, places) == (whole.lists, whole.places):
                for count in range(2, min(MOST_PARTS, len(group)) + 1):
                    for chosen in combinations(group, count):
                        fusion = _fusion(whole, chosen, says, names, forward=forward)
                        ranked += [fusion] if fusion else []
        ranked.sort(key=lambda fusion: -fusion.margin)
        if ranked and (len(ranked) == 1 or ranked[0].margin > ranked[1].margin):
            yield ranked[0]


def _fusion(
    whole: _Flat, parts: Sequence[_Flat], says: Sequence[Sequence[str]], names: NameScores, *, forward: bool
) -> Fusion | None:
    if any({part.item.meaning.leaf, whole.item.meaning.leaf} == {"weight", "bias"} for part in parts):
        return None
    ways = {
        _joined(shapes, made) for *shapes, made in {*zip(*(part.shapes for part in parts), whole.shapes, strict=True)}
    }
    joined = ways.pop() if len(ways) == 1 else None
    if joined is None:
        return None
    if len({part.over for part in parts}) > 1 or (whole.over and parts[0].over):
        return None
    dim, kind = joined
    order = next((order for order in says if _ordered(parts, order)), None)
    if order is not None:
        parts = _ordered(parts, order)
        margin, evidence = 4.0, f"its name says that it holds {', '.join(order)}, and sizes add up"
    elif not says:
        likeness = min(names(whole.item, part.item) for part in parts)
        margin, evidence = 0.5 + max(0.0, likeness) / 4, "it fits nothing in one piece, and sizes add up"
    else:
        return None
    over = whole.over or -parts[0].over
    groups = tuple(part.item.group for part in parts)
    one = (whole.item.group,)
    sources, targets = (one, groups) if forward else (groups, one)
    return Fusion(sources, targets, Relation(kind, over if forward else -over), dim, margin, evidence)


def _ordered(parts: Sequence[_Flat], order: Sequence[str]) -> list[_Flat]:
    """The parts in the order of these concepts, if each says one of them; else nothing."""
    found = [[part for part in parts if concept in part.item.meaning.features] for concept in order]
    if len(order) != len(parts) or any(len(group) != 1 for group in found):
        return []
    return [group[0] for group in found]


def _joined(shapes: Sequence[tuple[int, ...]], whole: tuple[int, ...]) -> tuple[int, Kind] | None:
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

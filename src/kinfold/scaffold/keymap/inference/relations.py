"""How the shapes of two groups can go together: as they are, transposed, reshaped, stacked or taken apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from operator import itemgetter
from typing import Literal

from kinfold.checkpoint.manifest import TensorInfo
from kinfold.scaffold.keymap.inference.described import Described
from kinfold.scaffold.keymap.inference.groups import Group, Place
from kinfold.scaffold.keymap.inference.lists import Alignment

Shape = tuple[int, ...]
Kind = Literal["same", "transpose", "reshape"]

COST: dict[Kind, float] = {"same": 0.0, "reshape": 0.4, "transpose": 0.6}
"""What a relation costs beside a plain one."""


@dataclass(frozen=True, slots=True)
class Relation:
    """How the tensors of two groups go together, place by place.

    Attributes:
        kind: What happens to each tensor.
        over: Which hole the first group (positive) or the second one (negative) has beyond the other's, counted from
            1, if tensors are stacked or taken apart over it; 0 if neither.
    """

    kind: Kind
    over: int = 0


def relate(source: Group, target: Group) -> Relation | None:
    """How the tensors of a group of foreign tensors can be those of a group of native ones, if they can."""
    extra = len(source.parts) - len(target.parts)
    if extra == 0:
        if source.places != target.places:
            return None
        pairs = {_Pair.of(source.tensors[place], info) for place, info in target.tensors.items()}
        kind = _common_kind(pairs)
        return Relation(kind) if kind else None
    if abs(extra) != 1:
        return None
    several, one = (source, target) if extra > 0 else (target, source)
    for hole in range(len(several.parts) - 1):
        kind = _stacked_kind(several, one, hole)
        if kind:
            return Relation(kind, (hole + 1) * extra)
    return None


def relate_all(
    there: Sequence[Described], here: Sequence[Described], lists: Alignment
) -> dict[tuple[Group, Group], Relation]:
    """Every pair whose lists and shapes go together, and of which not one is said to be a bias and the other a weight.

    Args:
        there: The foreign groups.
        here: The native groups.
        lists: Which lists go together.
    """
    by_lists: dict[tuple[str, ...], list[Described]] = {}
    for item in here:
        by_lists.setdefault(lists.of_target(item.group), []).append(item)
    kinds: dict[tuple, int] = {}
    kind = {item.group: kinds.setdefault(_tensors(item.group), len(kinds)) for item in (*there, *here)}
    known: dict[tuple[int, int], Relation | None] = {}
    found = {}
    for source in there:
        for target in by_lists.get(lists.of_source(source.group), ()):
            if {source.meaning.leaf, target.meaning.leaf} != {"weight", "bias"}:
                a, b = source.group, target.group
                if (kind[a], kind[b]) not in known:
                    known[kind[a], kind[b]] = relate(a, b)
                if relation := known[kind[a], kind[b]]:
                    found[a, b] = relation
    return found


def kind_of_shapes(a: Shape, b: Shape) -> Kind | None:
    """How a tensor of one shape can be one of another; stacked matrices are transposed in their last two dimensions."""
    if a == b:
        return "same"
    if len(a) == len(b) >= 2 and a[:-2] == b[:-2] and a[-2:] == b[:-3:-1]:
        return "transpose"
    if len(a) != len(b) and [size for size in a if size != 1] == [size for size in b if size != 1]:
        return "reshape"
    return None


@dataclass(frozen=True, slots=True)
class _Pair:
    """What is compared of two tensors."""

    there: Shape
    here: Shape
    alike: bool

    @classmethod
    def of(cls, there: TensorInfo, here: TensorInfo) -> _Pair:
        return cls(there.shape, here.shape, ("float" in there.dtype) == ("float" in here.dtype))


def _common_kind(pairs: set[_Pair]) -> Kind | None:
    kinds: set[Kind | None] = {kind_of_shapes(pair.there, pair.here) if pair.alike else None for pair in pairs}
    if len(kinds) == 2:
        kinds.discard("same")  # square ones among others
    return kinds.pop() if len(kinds) == 1 else None


def _stacked_kind(several: Group, one: Group, hole: int) -> Kind | None:
    """How tensors stacked over a hole can be those of the group without it."""
    if len(several.shapes) != 1 or _values(several) != _values(one):
        return None
    counts: dict[Place, int] = {}
    for place in several.tensors:
        rest = place[:hole] + place[hole + 1 :]
        counts[rest] = counts.get(rest, 0) + 1
    if counts.keys() != one.places:
        return None
    kinds = set()
    for rest, count in counts.items():
        if (*rest[:hole], count - 1, *rest[hole:]) not in several.tensors:
            return None
        kinds.add(kind_of_shapes((count, *several.shape), one.tensors[rest].shape))
    return kinds.pop() if len(kinds) == 1 else None


def _values(group: Group) -> int:
    if len(group.shapes) == 1:
        return prod(group.shape) * len(group.tensors)
    return sum(info.numel for info in group.tensors.values())


def _tensors(group: Group) -> tuple:
    """All of a group that decides what it can go together with."""
    return (
        len(group.parts),
        *((place, info.shape, info.dtype) for place, info in sorted(group.tensors.items(), key=itemgetter(0))),
    )

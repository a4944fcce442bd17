"""Everything that could go together by lists and shapes, whatever the names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from kinfold.scaffold.keymap.inference.fused import MOST_PARTS, MOST_SIBLINGS, join_of_shapes
from kinfold.scaffold.keymap.inference.groups import Group
from kinfold.scaffold.keymap.inference.relations import Relation, relate
from kinfold.scaffold.keymap.inference.words import Vocabulary
from kinfold.scaffold.keymap.native import NativeSide
from kinfold.scaffold.keymap.pairing import Pairing
from kinfold.scaffold.keymap.settling.fused_layouts import layouts
from kinfold.scaffold.keymap.settling.transposing import in_layers, is_matrix, is_square, transposed


class Candidates:
    """The pairings that are possible between groups of both sides.

    Args:
        sources: The foreign groups.
        targets: The native groups.
        lists: The native list of each foreign one.
        vocabulary: Which names say that they are of a weight, or of a bias.
    """

    def __init__(
        self, sources: Sequence[Group], targets: Sequence[Group], lists: Mapping[str, str], vocabulary: Vocabulary
    ) -> None:
        self._sources, self._targets, self._lists = sources, targets, lists
        self._leaf = {group: vocabulary.meaning(group.text).leaf for group in (*sources, *targets)}

    def pairings(self, native: NativeSide, *, layers_transposed: bool) -> Iterator[Pairing]:
        """What is possible if the matrices in layers are transposed, or are not.

        Fused tensors are tried where a tensor goes with nothing in one piece.
        """
        plain = list(self._plain(layers_transposed=layers_transposed))
        yield from plain
        fitting = {group for pairing in plain for group in pairing.groups}
        for pairing in self._fused(fitting):
            if not in_layers(pairing) or (pairing.relation.kind == "transpose") is layers_transposed:
                yield from layouts(pairing, native)

    def _plain(self, *, layers_transposed: bool) -> Iterator[Pairing]:
        for source in self._sources:
            for target in self._targets:
                if self._go_together(source, target):
                    relation = relate(source, target)
                    if relation is not None:
                        yield from _turned(Pairing((source,), (target,), relation), layers_transposed=layers_transposed)

    def _fused(self, fitting: set[Group]) -> Iterator[Pairing]:
        """Tensors that are several of one module on the other side; parts in the order in which they stand."""
        for forward, wholes, parts in ((True, self._sources, self._targets), (False, self._targets, self._sources)):
            siblings: dict[object, list[Group]] = defaultdict(list)
            for part in parts:
                siblings[part.parent, part.places].append(part)
            for whole in wholes:
                if whole in fitting:
                    continue
                for group in siblings.values():
                    most = MOST_PARTS if len(group) <= MOST_SIBLINGS else 2
                    for count in range(2, min(most, len(group)) + 1):
                        for chosen in combinations(group, count):
                            pairing = self._joined(whole, chosen, forward=forward)
                            if pairing is not None:
                                yield pairing

    def _joined(self, whole: Group, parts: tuple[Group, ...], *, forward: bool) -> Pairing | None:
        if whole.places != parts[0].places or len({self._leaf[group] for group in (whole, *parts)} - {""}) > 1:
            return None
        ways = {
            join_of_shapes([part.tensors[place].shape for part in parts], whole.tensors[place].shape)
            for place in whole.places
        }
        way = ways.pop() if len(ways) == 1 else None
        if way is None:
            return None
        dim, kind = way
        sources, targets = ((whole,), parts) if forward else (parts, (whole,))
        if not all(self._go_together(source, target) for source in sources for target in targets):
            return None
        return Pairing(sources, targets, Relation(kind), dim)

    def _go_together(self, source: Group, target: Group) -> bool:
        """Whether two groups stand in the same lists, and not one is a weight and the other a bias."""
        known = set(self._lists.values())
        aligned = tuple(self._lists[name] for name in source.lists if name in self._lists)
        if {self._leaf[source], self._leaf[target]} == {"weight", "bias"}:
            return False
        return tuple(name for name in target.lists if name in known) == aligned


def _turned(pairing: Pairing, *, layers_transposed: bool) -> Iterator[Pairing]:
    """The ways in which two groups go together: as they are, transposed, or both where shapes do not show it."""
    for way in [pairing, transposed(pairing)] if is_square(pairing) else [pairing]:
        turned = way.relation.kind == "transpose"
        allowed = turned is layers_transposed if in_layers(way) else not turned or layers_transposed
        if not is_matrix(way) or allowed or not (in_layers(way) or is_square(way)):
            yield way

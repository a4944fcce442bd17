"""Every way to fill native groups with foreign ones, where shapes and modules allow it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from kinfold.scaffold.keymap.connected import connected
from kinfold.scaffold.keymap.inference.groups import Group
from kinfold.scaffold.keymap.pairing import Pairing, module_of

Modules = Mapping[object, object]
"""What modules of one side have become on the other."""

MOST_STEPS = 200_000
"""After how many steps a search gives up: as many equal tensors as there are in an encoder and a decoder have more
matchings than can be tried."""


def components(pairings: Iterable[Pairing]) -> list[list[Pairing]]:
    """Pairings that have something to do with each other: a group in common, or groups of the same module."""
    return connected(pairings, _places)


@dataclass(frozen=True, slots=True)
class Matchings:
    """What a search has found.

    Attributes:
        found: Choices of pairings.
        complete: Whether that is all of them.
    """

    found: tuple[tuple[Pairing, ...], ...]
    complete: bool


def find_matchings(
    pairings: Sequence[Pairing], settled: Iterable[Pairing] = (), *, nested: bool = False, most: int = 1
) -> Matchings:
    """Choices of pairings that fill each target exactly once, use no source twice, and keep modules together.

    Weights and biases of one module there are of one module here, laid out alike, and the other way round; so are
    those of modules that are settled already.

    Args:
        pairings: What could go together.
        settled: What does.
        nested: Whether modules of one layer that stand in one module there have to stand in one here, too.
        most: How many to look for; the search also ends after `MOST_STEPS` steps.
    """
    by_target: dict[Group, list[Pairing]] = {}
    for pairing in pairings:
        for target in pairing.targets:
            by_target.setdefault(target, []).append(pairing)
    # The least free targets first, those of one module next to each other: dead ends show early.
    order = sorted(by_target, key=lambda target: (len(by_target[target]), module_of(target)))
    search = _Search(order, by_target, nested)
    known: tuple[Modules, Modules] = {}, {}
    for pairing in settled:
        known = _joined(known, search.modules(pairing))
    found = tuple(islice(search.extended((), *known), most + 1))
    return Matchings(found[:most], len(found) <= most and not search.gave_up)


class _Search:
    """Depth first, target by target."""

    def __init__(self, order: Sequence[Group], by_target: Mapping[Group, Sequence[Pairing]], nested: bool) -> None:
        self._order = order
        self._by_target = by_target
        self._nested = nested
        self._steps = 0

    @property
    def gave_up(self) -> bool:
        """Whether there may be more."""
        return self._steps > MOST_STEPS

    def extended(self, chosen: tuple[Pairing, ...], there: Modules, here: Modules) -> Iterator[tuple[Pairing, ...]]:
        """Every matching that begins with what is chosen, given what modules have become so far."""
        used = {group for pairing in chosen for group in pairing.groups}
        target = next((target for target in self._order if target not in used), None)
        if target is None:
            yield chosen
            return
        for pairing in self._by_target[target]:
            self._steps += 1
            more_there, more_here = self.modules(pairing)
            free = used.isdisjoint(pairing.groups)
            if self._steps <= MOST_STEPS and free and _agree(there, more_there) and _agree(here, more_here):
                yield from self.extended((*chosen, pairing), *_joined((there, here), (more_there, more_here)))

    def modules(self, pairing: Pairing) -> tuple[Modules, Modules]:
        """What the modules of a pairing become, in both directions, with how they are laid out."""
        there, here = (tuple(map(module_of, side)) for side in (pairing.sources, pairing.targets))
        onward: Modules = dict.fromkeys(there, (here, pairing.turns))
        back: Modules = dict.fromkeys(here, (there, pairing.turns))
        if not self._nested:
            return onward, back
        outer = [{("in", module.rpartition(".")[0]) for module in side if "{}" in module} for side in (there, here)]
        nests = [dict.fromkeys(side, frozenset(other)) for side, other in (outer, reversed(outer))]
        return {**onward, **nests[0]}, {**back, **nests[1]}


def _joined(known: tuple[Modules, Modules], more: tuple[Modules, Modules]) -> tuple[Modules, Modules]:
    return {**known[0], **more[0]}, {**known[1], **more[1]}


def _agree(known: Modules, more: Modules) -> bool:
    return all(known.get(module, said) == said for module, said in more.items())


def _places(pairing: Pairing) -> list[Hashable]:
    modules = [("there", module_of(group)) for group in pairing.sources]
    modules += [("here", module_of(group)) for group in pairing.targets]
    return [*pairing.groups, *modules]

"""Every way to fill native groups with foreign ones, where shapes and modules allow it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from kinfold.scaffold.keymap.inference.groups import Group
from kinfold.scaffold.keymap.pairing import Pairing, module_of

Modules = Mapping[str, object]
"""What modules of one side have become on the other."""


def components(pairings: Iterable[Pairing]) -> list[list[Pairing]]:
    """Pairings that have something to do with each other: a group in common, or groups of the same module."""
    parent: dict[object, object] = {}

    def root(item: object) -> object:
        parent.setdefault(item, item)
        while parent[item] is not item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    pairings = list(pairings)
    for pairing in pairings:
        first = root(_places(pairing)[0])
        for place in _places(pairing):
            parent[root(place)] = first
            first = root(first)
    found: dict[object, list[Pairing]] = {}
    for pairing in pairings:
        found.setdefault(root(_places(pairing)[0]), []).append(pairing)
    return list(found.values())


def matchings(pairings: Sequence[Pairing], settled: Iterable[Pairing] = ()) -> Iterator[tuple[Pairing, ...]]:
    """Every choice of pairings that fills each target exactly once, uses no source twice, and keeps modules together.

    Weights and biases of one module there are of one module here, laid out alike, and the other way round; so are
    those of modules that are settled already.
    """
    by_target: dict[Group, list[Pairing]] = {}
    for pairing in pairings:
        for target in pairing.targets:
            by_target.setdefault(target, []).append(pairing)
    there, here = {}, {}
    for pairing in settled:
        more_there, more_here = _modules(pairing)
        there, here = {**there, **more_there}, {**here, **more_here}
    # The least free targets first, those of one module next to each other: dead ends show early.
    order = sorted(by_target, key=lambda target: (len(by_target[target]), module_of(target)))
    yield from _extended((), order, by_target, there, here)


def _extended(
    chosen: tuple[Pairing, ...],
    order: Sequence[Group],
    by_target: Mapping[Group, Sequence[Pairing]],
    there: Modules,
    here: Modules,
) -> Iterator[tuple[Pairing, ...]]:
    used = {group for pairing in chosen for group in (*pairing.sources, *pairing.targets)}
    target = next((target for target in order if target not in used), None)
    if target is None:
        yield chosen
        return
    for pairing in by_target[target]:
        more_there, more_here = _modules(pairing)
        if (
            used.isdisjoint((*pairing.sources, *pairing.targets))
            and _agree(there, more_there)
            and _agree(here, more_here)
        ):
            yield from _extended((*chosen, pairing), order, by_target, {**there, **more_there}, {**here, **more_here})


def _modules(pairing: Pairing) -> tuple[Modules, Modules]:
    """What the modules of a pairing become, in both directions, with how they are laid out."""
    there, here = (tuple(map(module_of, side)) for side in (pairing.sources, pairing.targets))
    return dict.fromkeys(there, (here, pairing.turns)), dict.fromkeys(here, (there, pairing.turns))


def _agree(known: Modules, more: Modules) -> bool:
    return all(known.get(module, said) == said for module, said in more.items())


def _places(pairing: Pairing) -> list[object]:
    modules = [("there", module_of(group)) for group in pairing.sources]
    modules += [("here", module_of(group)) for group in pairing.targets]
    return [*pairing.sources, *pairing.targets, *modules]

"""Whether matrices are transposed: square ones do not show it, but those of the same kind around them do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from kinfold.scaffold.keymap.inference.relations import Relation
from kinfold.scaffold.keymap.pairing import Answer, Pairing, Question

EVIDENCE = "transposed as the matrices around it, whose shapes show it"


def settle_squares(pairings: Sequence[Pairing]) -> tuple[list[Pairing], list[Question]]:
    """The pairings, with square matrices transposed where others of their kind are; and what nothing shows.

    Matrices are of one kind if the last segments of their names are the same, on both sides, and all of them are in
    layers, or none. Where no other one shows it, those that differ in that alone do: code bases transpose the weights
    of linear layers, and leave embeddings, which stand outside layers, as they are.
    """
    shown: dict[object, set[bool]] = defaultdict(set)
    for pairing in pairings:
        if is_matrix(pairing) and not is_square(pairing):
            for kind in (_kind(pairing), _kind(pairing)[1:]):
                shown[kind].add(pairing.relation.kind == "transpose")
    settled, open_ = [], []
    for pairing in pairings:
        said = shown[_kind(pairing)] or shown[_kind(pairing)[1:]]
        if not is_square(pairing) or said == {False}:
            settled.append(pairing)
        elif said == {True}:
            settled.append(transposed(pairing))
        else:
            open_.append(pairing)
    if not open_:
        return settled, []
    answers = (Answer(tuple(open_)), Answer(tuple(map(transposed, open_))))
    return settled, [Question("whether square matrices are transposed", answers)]


def layers_transposed(pairings: Iterable[Pairing]) -> bool | None:
    """Whether the matrices in layers are transposed, by those whose shapes show it; None if they do not agree."""
    kinds = {p.relation.kind for p in pairings if is_matrix(p) and in_layers(p) and not is_square(p)}
    return kinds == {"transpose"} if len(kinds) == 1 else None


def is_matrix(pairing: Pairing) -> bool:
    """Whether a pairing is of matrices, or of stacks of them."""
    return len(pairing.targets[0].shape) >= 2 and pairing.relation.kind != "reshape"


def is_square(pairing: Pairing) -> bool:
    """Whether it is of square ones, whose shapes do not show whether they are transposed."""
    return is_matrix(pairing) and not pairing.fused and pairing.targets[0].shape[-2] == pairing.targets[0].shape[-1]


def in_layers(pairing: Pairing) -> bool:
    """Whether the native side counts it through a list of modules."""
    return bool(pairing.targets[0].lists)


def transposed(pairing: Pairing) -> Pairing:
    """A pairing of square matrices, transposed."""
    return replace(pairing, relation=Relation("transpose", pairing.relation.over), evidence=EVIDENCE)


def _kind(pairing: Pairing) -> tuple[object, ...]:
    leaves = (group.text.rpartition(".")[2] for group in (pairing.sources[0], pairing.targets[0]))
    return in_layers(pairing), *leaves

"""Inferring a key map from the names and shapes of both sides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from math import exp

from kinfold.checkpoint.manifest import Manifest
from kinfold.scaffold.keymap.inference.assignment import best_pairs, components
from kinfold.scaffold.keymap.inference.described import describe
from kinfold.scaffold.keymap.inference.doubts import without_doubtful
from kinfold.scaffold.keymap.inference.fused import Fusion, choose_fusions, find_fusions
from kinfold.scaffold.keymap.inference.groups import Group, group_tensors
from kinfold.scaffold.keymap.inference.lists import Alignment, align_lists
from kinfold.scaffold.keymap.inference.relations import COST, Relation, relate_all
from kinfold.scaffold.keymap.inference.scores import NameScores
from kinfold.scaffold.keymap.inference.together import Siblings, Together
from kinfold.scaffold.keymap.inference.words import Vocabulary, standard_vocabulary

SURE = 1.0
"""By how much the best pairing of all has to beat the best one without a pair for the pair to be decided."""

ROUNDS = 5
"""How often pairs are scored anew by what their neighbours were paired with."""

ALONE = 1.5
"""What a pair gains by being a pair: names that disagree by more are rather left alone."""

UNIQUE = 4.0
"""What it brings if nothing else on either side has a shape and a place that fit."""

FEW = 4
"""How many matrices that are not square say whether matrices are transposed."""

RARE = 1 / 16
"""The part of them that may be another way than the others."""

ODD = 4.0
"""What it costs to be transposed where the others are not."""

Pair = tuple[Group, Group]
Scores = Mapping[Pair, float]


@dataclass(frozen=True, slots=True)
class Decision:
    """Foreign tensors that become native ones.

    Attributes:
        sources: The groups of foreign tensors.
        targets: The groups of native tensors.
        relation: How they go together.
        margin: By how much the best assignment beats the best one without this pair.
        evidence: What speaks for it, for a person.
        alternatives: What else could fill the targets, or be filled by the sources.
        dim: Of several that are one: the dimension in which they are joined, counted in the shape of the several. They
            are in the order in which they are joined; whether they lie in turns, no name says.
    """

    sources: tuple[Group, ...]
    targets: tuple[Group, ...]
    relation: Relation
    margin: float
    evidence: str
    alternatives: tuple[Group, ...] = ()
    dim: int = 0

    @property
    def confidence(self) -> float:
        """Between 0 (any other pairing is as good) and 1."""
        return 1 - exp(-self.margin)

    @property
    def sure(self) -> bool:
        """Whether it is decided."""
        return self.margin >= SURE


@dataclass(frozen=True)
class Inference:
    """What names and shapes say.

    Attributes:
        decisions: What was paired, decided or open.
        unused: Foreign groups that nothing here is made of.
        unfilled: Native groups that nothing there goes with.
        lists: The native list that each foreign one was paired with, as patterns.
    """

    decisions: tuple[Decision, ...]
    unused: tuple[Group, ...]
    unfilled: tuple[Group, ...]
    lists: Mapping[str, str] = field(default_factory=dict)


def infer(source: Manifest, target: Manifest, *, vocabulary: Vocabulary | None = None) -> Inference:
    """Pair the tensors of a checkpoint with the parameters of a model, by names and shapes alone.

    Args:
        source: The checkpoint.
        target: The model.
        vocabulary: What words mean.

    Returns:
        What was found; nothing is guessed: a pair that could as well be another one is in it as open.
    """
    vocabulary = vocabulary or standard_vocabulary()
    not_lists: tuple[set[str], set[str]] = set(), set()
    while True:
        sources, targets = (group_tensors(side, but=but) for side, but in zip((source, target), not_lists, strict=True))
        alignment = align_lists(sources, targets, vocabulary)
        inference = _infer(sources, targets, alignment, vocabulary)
        alone = _lists_without_partner(inference, alignment)
        if all(more <= known for more, known in zip(alone, not_lists, strict=True)):
            return inference
        for known, more in zip(not_lists, alone, strict=True):
            known |= more


def _lists_without_partner(inference: Inference, alignment: Alignment) -> tuple[set[str], set[str]]:
    """Lists that nothing on the other side goes with, though they hold what is to be paired: their numbers may be
    just names there, or count from another number on."""
    known = alignment.there, alignment.here
    sides = inference.unused, inference.unfilled
    if not all(sides):
        return set(), set()
    alone = [
        {(len(group.lists), name) for group in side if (name := _outermost_alone(group, lists))}
        for side, lists in zip(sides, known, strict=True)
    ]
    deepest = max((depth for side in alone for depth, _ in side), default=0)
    there, here = ({name for depth, name in side if depth == deepest} for side in alone)
    return there, here


def _outermost_alone(group: Group, known: Collection[str]) -> str:
    return next((name for name in group.lists if name not in known), "")


def _infer(sources: Sequence[Group], targets: Sequence[Group], lists: Alignment, vocabulary: Vocabulary) -> Inference:
    there, here = describe(sources, vocabulary), describe(targets, vocabulary)
    relations = relate_all(there, here, lists)
    there, here = without_doubtful(there, here, relations, vocabulary)
    names, siblings = NameScores(there, here, vocabulary), Siblings(there, here, relations)
    described = {item.group: item for item in (*there, *here)}
    scores = {(a, b): names(described[a], described[b]) + siblings(a, b) for a, b in relations}
    meant = {item.group: item.meaning.features for item in (*there, *here)}
    contrary = {(a, b) for a, b in relations if vocabulary.contradict(meant[a], meant[b])}
    fitting = {group for pair in relations for group in pair}
    fusions = find_fusions(there, here, fitting, names, lists, vocabulary)
    found: list[Decision] = []
    for _ in range(ROUNDS):
        together = Together(((a, b) for d in found if d.sure for a in d.sources for b in d.targets), there, here)
        before, found = found, _round(found, fusions, scores, relations, contrary, together)
        if [(d.sources, d.targets, d.sure) for d in before] == [(d.sources, d.targets, d.sure) for d in found]:
            break
    used = _groups(found)
    order = {group: number for number, group in enumerate(targets)}
    return Inference(
        tuple(sorted(found, key=lambda decision: order[decision.targets[0]])),
        tuple(group for group in sources if group not in used),
        tuple(group for group in targets if group not in used),
        lists.there,
    )


def _round(
    found: Sequence[Decision],
    possible: Sequence[Fusion],
    names: Scores,
    relations: Mapping[Pair, Relation],
    contrary: Set[Pair],
    together: Together,
) -> list[Decision]:
    """Decide anew, by names, shapes and what was found in the round before."""
    settled = _groups(decision for decision in found if decision.sure and not _is_fused(decision))
    possible = [fusion for fusion in possible if fusion.margin >= SURE or not fusion.groups & settled]
    fusions = [_of_fusion(fusion) for fusion in choose_fusions(possible, together)]
    fused = _groups(decision for decision in fusions if decision.sure)
    free = {pair: relation for pair, relation in relations.items() if not fused & set(pair)}
    unique = _unique(free) - contrary  # no shape outweighs names that exclude each other
    cost = COST if _some_are_transposed(found) else {**COST, "transpose": ODD}
    scores = {
        pair: ALONE + UNIQUE * (pair in unique) + names[pair] + together(*pair) - cost[relation.kind]
        for pair, relation in free.items()
    }
    return _compatible(fusions, _assign(scores, free))


def _some_are_transposed(found: Iterable[Decision]) -> bool:
    """Whether some of the matrices that were decided are transposed, or too few were decided to say."""
    matrices = [d for d in found if d.sure and len(d.targets[0].shape) == 2 and len(set(d.targets[0].shape)) == 2]
    transposed = sum(decision.relation.kind == "transpose" for decision in matrices)
    return len(matrices) < FEW or transposed > RARE * len(matrices)


def _is_fused(decision: Decision) -> bool:
    return len(decision.sources) + len(decision.targets) > 2


def _compatible(fusions: Sequence[Decision], pairs: Sequence[Decision]) -> list[Decision]:
    """Fusions and pairs without those that are less sure than others of their groups: a pair than a fusion, if open."""
    settled = _groups(decision for decision in pairs if decision.sure)
    kept = [decision for decision in fusions if decision.sure or not _groups([decision]) & settled]
    fused = _groups(kept)
    return [*kept, *(decision for decision in pairs if not _groups([decision]) & fused)]


def _groups(decisions: Iterable[Decision]) -> set[Group]:
    return {group for decision in decisions for group in (*decision.sources, *decision.targets)}


def _unique(pairs: Iterable[Pair]) -> set[Pair]:
    """The pairs of which neither side goes with anything else."""
    pairs = list(pairs)
    times = Counter(group for pair in pairs for group in pair)
    return {pair for pair in pairs if times[pair[0]] == times[pair[1]] == 1}


def _assign(scores: Scores, relations: Mapping[Pair, Relation]) -> list[Decision]:
    """The pairs with the largest total score, each part of the graph of what can go together on its own."""
    times = Counter(group for pair in scores for group in pair)
    scores = {pair: score for pair, score in scores.items() if score > 0}  # no other pair can be worth it
    decisions = []
    for sources, targets in components(scores):
        rows = {group: number for number, group in enumerate(sources)}
        columns = {group: number for number, group in enumerate(targets)}
        table = {(rows[a], columns[b]): score for (a, b), score in scores.items() if a in rows}
        for row, (column, margin, other) in best_pairs(table, len(sources), len(targets)).items():
            pair = sources[row], targets[column]
            score = table[row, column]
            close = [b for b in targets if b is not pair[1] and table.get((row, columns[b]), -1e9) > score - 2 * SURE]
            alternatives = close if margin < SURE else []
            if other is not None and margin < SURE and targets[other] not in alternatives:
                alternatives.append(targets[other])
            alone = times[pair[0]] == times[pair[1]] == 1
            evidence = "the only one of its shape" if alone else f"by name and neighbours, {margin:.1f} ahead"
            decisions.append(Decision((pair[0],), (pair[1],), relations[pair], margin, evidence, tuple(alternatives)))
    return decisions


def _of_fusion(fusion: Fusion) -> Decision:
    return Decision(fusion.sources, fusion.targets, fusion.relation, fusion.margin, fusion.evidence, dim=fusion.dim)

"""Inferring a key map from the names and shapes of both sides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp

from kinfold.checkpoint.manifest import Manifest
from kinfold.scaffold.keymap.assignment import best_pairs
from kinfold.scaffold.keymap.fused import Fusion, find_fusions
from kinfold.scaffold.keymap.groups import Group, group_tensors
from kinfold.scaffold.keymap.lists import align_lists
from kinfold.scaffold.keymap.relations import COST, Relation, relate
from kinfold.scaffold.keymap.scores import Described, NameScores, Togetherness, describe
from kinfold.scaffold.keymap.words import Vocabulary, standard_vocabulary

SURE = 1.0
"""By how much the best pairing of all has to beat the best one without a pair for the pair to be decided."""

ROUNDS = 3
"""How often pairs are scored anew by what their neighbours were paired with."""

ALONE = 1.5
"""What a pair gains by being a pair: names that disagree by more are rather left alone."""

UNIQUE = 4.0
"""What it brings if nothing else on either side has a shape and a place that fit."""


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
        dim: Of several that are one: the dimension in which they are joined, counted in the shape of the several.
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
        inference = _infer(sources, targets, vocabulary)
        alone = _lists_without_partner(inference)
        if all(more <= known for more, known in zip(alone, not_lists, strict=True)):
            return inference
        for known, more in zip(not_lists, alone, strict=True):
            known |= more


def _lists_without_partner(inference: Inference) -> tuple[set[str], set[str]]:
    """Lists that nothing on the other side goes with, though they hold what is to be paired: their numbers may be
    just names there, or count from another number on."""
    known = inference.lists.keys(), set(inference.lists.values())
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


def _infer(sources: Sequence[Group], targets: Sequence[Group], vocabulary: Vocabulary) -> Inference:
    lists = align_lists(sources, targets, vocabulary)
    there, here = describe(sources, vocabulary), describe(targets, vocabulary)
    names = NameScores(there, here, vocabulary)
    relations = _relations(there, here, lists)
    fitting = {group for pair in relations for group in pair}
    fusions = find_fusions(there, here, fitting, names, lists, vocabulary)
    fused = {group for fusion in fusions for group in (*fusion.sources, *fusion.targets)}
    free = {pair: relation for pair, relation in relations.items() if not fused & set(pair)}
    plain = {(a.group, b.group): names(a, b) for a in there for b in here if (a.group, b.group) in free}
    unique = _unique(free)
    decided = [_of_fusion(fusion) for fusion in fusions]
    pairs = {a: b for fusion in fusions for a in fusion.sources for b in fusion.targets}
    found: list[Decision] = []
    for _ in range(ROUNDS):
        together = Togetherness({**pairs, **{d.sources[0]: d.targets[0] for d in found if d.sure}}, sources, targets)
        scores = {
            pair: ALONE + UNIQUE * (pair in unique) + score + together(*pair) - COST[free[pair].kind]
            for pair, score in plain.items()
        }
        before, found = found, _assign(scores, free)
        if [(d.sources, d.targets, d.sure) for d in before] == [(d.sources, d.targets, d.sure) for d in found]:
            break
    decisions = [*decided, *found]
    used = {group for decision in decisions for group in (*decision.sources, *decision.targets)}
    order = {group: number for number, group in enumerate(targets)}
    return Inference(
        tuple(sorted(decisions, key=lambda decision: order[decision.targets[0]])),
        tuple(group for group in sources if group not in used),
        tuple(group for group in targets if group not in used),
        lists,
    )


def _unique(pairs: Iterable[tuple[Group, Group]]) -> set[tuple[Group, Group]]:
    """The pairs of which neither side goes with anything else."""
    pairs = list(pairs)
    times = Counter(group for pair in pairs for group in pair)
    return {pair for pair in pairs if times[pair[0]] == times[pair[1]] == 1}


def _relations(
    there: Sequence[Described], here: Sequence[Described], lists: Mapping[str, str]
) -> dict[tuple[Group, Group], Relation]:
    """Every pair whose lists and shapes go together, and of which not one is said to be a bias and the other not."""
    by_lists: dict[tuple[str, ...], list[Described]] = {}
    for item in here:
        by_lists.setdefault(item.group.lists, []).append(item)
    known = set(lists.values())
    found = {}
    for source in there:
        aligned = tuple(lists[name] for name in source.group.lists if name in lists)
        for native, items in by_lists.items():
            if tuple(name for name in native if name in known) == aligned:
                for target in items:
                    if {source.meaning.leaf, target.meaning.leaf} != {"weight", "bias"}:
                        relation = relate(source.group, target.group)
                        if relation is not None:
                            found[source.group, target.group] = relation
    return found


def _assign(
    scores: Mapping[tuple[Group, Group], float], relations: Mapping[tuple[Group, Group], Relation]
) -> list[Decision]:
    """The pairs with the largest total score, each part of the graph of what can go together on its own."""
    decisions = []
    for sources, targets in _components(scores):
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
            evidence = "the only one of its shape" if len(table) == 1 else f"by name, {margin:.1f} ahead"
            decisions.append(Decision((pair[0],), (pair[1],), relations[pair], margin, evidence, tuple(alternatives)))
    return decisions


def _components(pairs: Iterable[tuple[Group, Group]]) -> list[tuple[list[Group], list[Group]]]:
    """The connected parts of a graph of pairs."""
    parent: dict[Group, Group] = {}

    def root(group: Group) -> Group:
        parent.setdefault(group, group)
        while parent[group] is not group:
            parent[group] = parent[parent[group]]
            group = parent[group]
        return group

    pairs = list(pairs)
    for a, b in pairs:
        parent[root(a)] = root(b)
    found: dict[Group, tuple[dict[Group, None], dict[Group, None]]] = {}
    for a, b in pairs:
        part = found.setdefault(root(a), ({}, {}))
        part[0][a] = None
        part[1][b] = None
    return [(list(rows), list(columns)) for rows, columns in found.values()]


def _of_fusion(fusion: Fusion) -> Decision:
    return Decision(fusion.sources, fusion.targets, fusion.relation, fusion.margin, fusion.evidence, dim=fusion.dim)

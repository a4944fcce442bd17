"""Bringing a key map up to date with a checkpoint: what holds stays, the rest is derived anew."""

from __future__ import annotations

from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass
from typing import Literal

from kinfold.checkpoint import Checkpoint, Manifest
from kinfold.keymap import BoundKeyMap, Certificate, KeyMap, certify
from kinfold.keymap.plan import Read
from kinfold.keymap.rules import Rule
from kinfold.scaffold.keymap.derive import Derived, derive
from kinfold.scaffold.keymap.diff import Drift, find_drift
from kinfold.scaffold.keymap.inference.words import Vocabulary
from kinfold.scaffold.keymap.native import NativeSide
from kinfold.scaffold.keymap.prior import Prior
from kinfold.scaffold.prove.reference import Reference

State = Literal["holds", "idle", "broken"]
"""Of a rule, for a checkpoint: it explains what it takes and gives; it has nothing to do; or neither."""


@dataclass(frozen=True, slots=True)
class Row:
    """One rule of a new map, and the position of the one of the old map that it takes the place of."""

    rule: Rule
    position: int | None


@dataclass(frozen=True, slots=True)
class Regenerated:
    """A key map brought up to date.

    Attributes:
        rows: Its rules.
        drift: How the checkpoint differs from what the old map took.
        derived: What was derived from the checkpoint.
        certificate: Of the new map.
        doubts: Rules that hold by their shapes, though names say otherwise.
    """

    rows: tuple[Row, ...]
    drift: Drift
    derived: Derived
    certificate: Certificate
    doubts: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether the new map explains the checkpoint in full, and no reference disagrees."""
        return self.certificate.holds and self.derived.agrees is not False


def regenerate(
    key_map: KeyMap,
    checkpoint: Checkpoint,
    native: NativeSide,
    *,
    elsewhere: Collection[str] = (),
    values: Read | None = None,
    reference: Reference | None = None,
    tolerance: float = 1e-4,
    vocabulary: Vocabulary | None = None,
) -> Regenerated:
    """Bring a key map up to date with a checkpoint.

    Rules that explain what they take and give are kept; so are those that have nothing to do here but fit another
    arch. What is left is derived. A reference, or values, outweigh a rule whose shapes fit.

    Args:
        key_map: The map.
        checkpoint: The checkpoint.
        native: The model that the map leads to.
        elsewhere: Names of parameters that other archs of the family have.
        values: Gives native tensors by name, of the same weights, where these are known.
        reference: Logits that were computed from the same weights.
        tolerance: How far logits may be apart, relative to the largest.
        vocabulary: What words mean.
    """
    bound = key_map.bind(native.config)
    found = rule_states(bound, checkpoint.manifest, native.manifest)
    worth: dict[int, State] = {id(rule): state for rule, state in zip(bound.rules, found, strict=True)}
    states: list[State] = [worth.get(id(rule), "idle") for rule in key_map]  # what is switched off has nothing to do
    drift = find_drift(bound, checkpoint.manifest, native.manifest)
    prior = Prior(key_map, drift, native)
    derived = derive(
        checkpoint,
        native,
        values=values,
        prior=prior,
        reference=reference,
        tolerance=tolerance,
        vocabulary=vocabulary,
    )
    new = [item.rule for item in derived.rules]
    others = [
        (place, rule)
        for rule in new
        for place, old in enumerate(key_map)
        if _replaces(rule, old) and rule.text != old.unswitched
    ]
    doubts = []
    for place, rule in others:
        if states[place] == "holds" and not derived.questions:
            if values is not None or derived.agrees:
                states[place] = "broken"
            else:
                doubts.append(f"{key_map.rules[place]} holds by its shapes, though by names it would be {rule}")
    rows = _rows(key_map.rules, new, states, elsewhere)
    merged = KeyMap(*(row.rule for row in rows))
    certificate = certify(merged.bind(native.config), checkpoint.manifest, native.manifest)
    return Regenerated(tuple(rows), drift, derived, certificate, tuple(doubts))


def rule_states(key_map: BoundKeyMap, source: Manifest, target: Manifest) -> list[State]:
    """What each rule of a map is worth for a checkpoint and a model, each on its own.

    Of two rules that take, or give, the same tensor, only the first can hold.
    """
    place = {id(rule): number for number, rule in enumerate(key_map.rules)}
    found: list[tuple[set[str], set[str]]] = [(set(), set()) for _ in key_map.rules]
    for application in key_map.match(source, "source").applications:
        found[place[id(application.rule)]][0].update(application.found.values())
    for application in key_map.match(target, "target").applications:
        found[place[id(application.rule)]][1].update(application.found.values())
    states: list[State] = []
    taken, given = set[str](), set[str]()
    for rule, (there, here) in zip(key_map.rules, found, strict=True):
        if not there and not here:
            states.append("idle")
        elif there & taken or here & given or not _holds(rule, key_map, there, here, source, target):
            states.append("broken")
        else:
            states.append("holds")
            taken |= there
            given |= here
    return states


def _holds(
    rule: Rule, key_map: BoundKeyMap, there: Set[str], here: Set[str], source: Manifest, target: Manifest
) -> bool:
    """Whether a rule alone explains the tensors that it finds on both sides."""
    if rule.repeats is not None:
        names = [rule.repeats.format(holes) for name in there if (holes := rule.sources[0].match(name)) is not None]
        return all(name in source for name in names)
    if not rule.targets:
        return True
    alone = key_map.restricted_to(rule)
    certificate = certify(alone, {name: source[name] for name in there}, {name: target[name] for name in here})
    return certificate.holds


def _replaces(new: Rule, old: Rule) -> bool:
    """Whether two rules are about the same: parameters, or foreign tensors that become none."""
    if new.targets and old.targets:
        return not {p.text for p in new.targets}.isdisjoint(p.text for p in old.targets)
    return not new.targets and not old.targets and new.sources == old.sources


def _rows(old: Sequence[Rule], new: Sequence[Rule], states: Sequence[State], elsewhere: Collection[str]) -> list[Row]:
    """The rules of the new map: the old ones in their order, each new one behind the one before it."""
    kept = [
        state == "holds" or (state == "idle" and _fits_elsewhere(rule, elsewhere))
        for rule, state in zip(old, states, strict=True)
    ]
    rows: list[Row | None] = [Row(rule, n) if kept[n] else None for n, rule in enumerate(old)]
    behind: dict[int, list[Row]] = {}
    last = -1
    for rule in new:
        alike = [place for place, other in enumerate(old) if _replaces(rule, other)]
        stay = [place for place in alike if kept[place]]
        free = [place for place in alike if rows[place] is None]
        if stay:
            last = stay[0]
        elif free:
            last = free[0]
            rows[last] = Row(rule, last)
        else:
            behind.setdefault(last, []).append(Row(rule, None))
    merged = [*behind.get(-1, [])]
    for place, row in enumerate(rows):
        merged += [row] if row is not None else []
        merged += behind.get(place, [])
    return merged


def _fits_elsewhere(rule: Rule, names: Collection[str]) -> bool:
    """Whether an idle rule may serve another arch, or a checkpoint that repeats or recomputes something."""
    return not rule.targets or any(pattern.match(name) is not None for pattern in rule.targets for name in names)

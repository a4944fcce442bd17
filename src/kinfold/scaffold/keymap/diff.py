"""What a checkpoint has that a key map does not explain, and the reverse, in the words of a person."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from kinfold.checkpoint.manifest import Manifest
from kinfold.keymap import BoundKeyMap
from kinfold.scaffold.keymap.inference.groups import Group
from kinfold.scaffold.keymap.inference.infer import Decision, infer
from kinfold.scaffold.keymap.rules import named


@dataclass(frozen=True, slots=True)
class Drift:
    """How a checkpoint differs from what a key map takes.

    Attributes:
        moved: What stands elsewhere, or in another form: from the checkpoint to what the map takes.
        reshaped: What has its name still, but another shape: what there is, and what was expected.
        new: Groups that the map does not know.
        gone: Groups that the map takes and the checkpoint lacks.
    """

    moved: tuple[Decision, ...]
    reshaped: tuple[tuple[Group, Group], ...]
    new: tuple[Group, ...]
    gone: tuple[Group, ...]

    @property
    def sentences(self) -> list[str]:
        """All of it in words; nothing where the map takes the checkpoint as it is."""
        return [
            *_moves(self.moved),
            *(f"`{named(a)}` has the shape {a.shape} now, where {b.shape} was" for a, b in self.reshaped),
            *(f"`{named(group)}` {group.shape} is new{_times(group)}" for group in self.new),
            *(f"`{named(group)}` {group.shape} is gone{_times(group)}" for group in self.gone),
        ]


def find_drift(key_map: BoundKeyMap, source: Manifest, target: Manifest) -> Drift:
    """How a checkpoint differs from what a key map takes.

    Args:
        key_map: The map.
        source: The checkpoint.
        target: The model that the map leads to.
    """
    expected = key_map.source_manifest(target)
    same = {name for name, info in source.items() if name in expected and expected[name].shape == info.shape}
    dropped = {
        name for application in key_map.match(source, "source").applications for name in application.found.values()
    }
    inference = infer(source, expected)
    reshaped = [(a, b) for a in inference.unused for b in inference.unfilled if a.text == b.text]
    known = {group for pair in reshaped for group in pair}
    changed = [decision for decision in inference.decisions if not _unchanged(decision, same)]
    unsure = [decision for decision in changed if not decision.sure]
    new = [*inference.unused, *(group for decision in unsure for group in decision.sources)]
    gone = [*inference.unfilled, *(group for decision in unsure for group in decision.targets)]
    explained = same | (dropped - set(expected))
    return Drift(
        tuple(decision for decision in changed if decision.sure),
        tuple(reshaped),
        tuple(group for group in new if group not in known and not _names(group) <= explained),
        tuple(group for group in gone if group not in known and not _names(group) <= same),
    )


def _unchanged(decision: Decision, same: set[str]) -> bool:
    names = {name for group in (*decision.sources, *decision.targets) for name in _names(group)}
    return names <= same and decision.relation.kind == "same"


def _names(group: Group) -> set[str]:
    return {group.name(place) for place in group.tensors}


def _moves(moved: Iterable[Decision]) -> Iterator[str]:
    renames: dict[tuple[str, str], list[tuple[Group, Group]]] = {}
    for move in moved:
        if len(move.sources) + len(move.targets) > 2 or move.relation.over:
            yield _regrouped(move)
            continue
        there, expected = move.sources[0], move.targets[0]
        for change in _differences(named(expected), named(there)):
            renames.setdefault(change, []).append((there, expected))
        if move.relation.kind == "transpose":
            yield f"`{named(there)}` is transposed now: {there.shape} where {expected.shape} was"
        elif move.relation.kind == "reshape":
            yield f"`{named(there)}` has the shape {there.shape} now, where {expected.shape} was"
    for (old, new), pairs in renames.items():
        yield _rename(old, new, pairs)


def _rename(old: str, new: str, pairs: Sequence[tuple[Group, Group]]) -> str:
    there, expected = pairs[0]
    if len(pairs) == 1:
        return f"`{named(expected)}` is called `{named(there)}` now{_times(there)}"
    example = f"in {sum(len(there.tensors) for there, _ in pairs)} names, such as `{named(there)}`"
    if not old:
        return f"`{new}` was added {example}"
    if not new:
        return f"`{old}` was left out {example}"
    return f"`{old}` is called `{new}` now, {example}"


def _regrouped(move: Decision) -> str:
    """What was one and is several, or the other way round."""
    over = move.relation.over
    there, expected = (" and ".join(f"`{named(group)}`" for group in side) for side in (move.sources, move.targets))
    if len(move.targets) > 1:
        return f"{expected} became one tensor, {there}" + (", stacked" if over < 0 else "")
    if len(move.sources) > 1:
        return f"{expected} came apart: {there} where one tensor was"
    number = len(
        {place[abs(over) - 1] for group in (move.sources if over > 0 else move.targets) for place in group.tensors}
    )
    if over > 0:
        return f"{expected} came apart: {number} tensors {there} where one stacked tensor was"
    return f"{number} tensors {expected} were stacked: one tensor {there} where they were"


def _differences(old: str, new: str) -> Iterator[tuple[str, str]]:
    """What differs between two names, in whole segments."""
    a, b = old.split("."), new.split(".")
    for tag, a0, a1, b0, b1 in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if tag != "equal":
            yield ".".join(a[a0:a1]), ".".join(b[b0:b1])


def _times(group: Group) -> str:
    return f" ({len(group.tensors)} tensors)" if len(group.tensors) > 1 else ""

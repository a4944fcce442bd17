"""Foreign tensors that become no parameter: recomputed, copies of others, or padded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kinfold.keymap import drop, pad, tie, unpad
from kinfold.keymap.plan import Read
from kinfold.keymap.rules import Rule
from kinfold.scaffold.keymap.inference.groups import Group
from kinfold.scaffold.keymap.inference.words import Vocabulary
from kinfold.scaffold.keymap.native import NativeSide
from kinfold.scaffold.keymap.rules import named

Explained = tuple[Rule, str]
"""A rule, and what speaks for it."""


@dataclass(frozen=True, slots=True)
class Padded:
    """A foreign group and a native one, of which one is filled up with zeros."""

    source: Group
    target: Group
    rule: Rule
    evidence: str


def explain_leftovers(
    unused: Iterable[Group], used: Sequence[Group], read: Read, vocabulary: Vocabulary
) -> tuple[list[Explained], list[Group]]:
    """The rules of tensors that are not needed, and those that nothing explains.

    Args:
        unused: Foreign groups that no parameter is made of.
        used: Foreign groups that parameters are made of.
        read: Gives a tensor by name: a copy is one only if its values are those of the original.
        vocabulary: Which names are of what follows from the config.
    """
    explained, left = [], []
    for group in unused:
        reason = vocabulary.why_recomputed(group.text)
        if reason is not None:
            explained.append((drop(named(group), reason=reason), "by name"))
        elif original := next((other for other in used if _repeats(group, other, read)), None):
            explained.append((tie(named(group), to=named(original)), "the same values"))
        else:
            left.append(group)
    return explained, left


def explain_padding(
    unused: Sequence[Group], unfilled: Sequence[Group], native: NativeSide, read: Read, vocabulary: Vocabulary
) -> list[Padded]:
    """Pairs of what is left on both sides that differ in the number of rows: one is filled up with zeros."""
    found = []
    for target in unfilled:
        fitting = [source for source in unused if _differ_in_rows(source, target, vocabulary)]
        if len(fitting) != 1 or len(target.tensors) > 1:
            continue
        (source,) = fitting
        rows, size = source.shape[0], target.shape[0]
        called = native.size(target.first_name, 0)
        if rows < size:
            rule = pad(source.text, target.text, size=rows, padded=called)
            found.append(Padded(source, target, rule, f"{rows} rows, filled up to {size} with zeros"))
        elif not read(source.first_name)[size:].any():
            rule = unpad(source.text, target.text, padded=rows, size=called)
            found.append(Padded(source, target, rule, f"the last {rows - size} of {rows} rows are zeros"))
    return found


def _repeats(group: Group, other: Group, read: Read) -> bool:
    import torch

    if group.places != other.places or group.shapes != other.shapes:
        return False
    return all(torch.equal(read(group.name(place)), read(other.name(place))) for place in group.places)


def _differ_in_rows(source: Group, target: Group, vocabulary: Vocabulary) -> bool:
    features = [vocabulary.meaning(group.text).features for group in (source, target)]
    same = len(source.shape) == len(target.shape) and source.shape[1:] == target.shape[1:] and not source.lists
    return same and source.shape[0] != target.shape[0] and bool(features[0] & features[1])

"""The rules of a key map, as they stand in a family's `loader.py`.

A rule names both sides by patterns. Sizes are numbers, or the names of fields of the family's config.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kinfold.errors import KeyMapError
from kinfold.keymap.ops import Concat, Identity, Op, PermuteRotary, Split, Stack, Transpose
from kinfold.keymap.pattern import Pattern

Size = int | str
"""A number, or the name of the config's field that has it."""

Resolve = Callable[[Size], int]


@dataclass(frozen=True, eq=False)
class Rule:
    """One rule: the foreign tensors it takes, the native ones it gives, and the operation between them.

    Attributes:
        kind: The name of the function that made it.
        sources: The foreign tensors.
        targets: The native tensors; none for a rule that only takes.
        make_op: Gives the operation once sizes are known, for so many tensors over the hole `over`.
        over: A hole of the sources that one application runs through.
        repeats: The foreign tensor that the source is a copy of.
        reason: Why the source is not needed.
    """

    kind: str
    sources: tuple[Pattern, ...]
    targets: tuple[Pattern, ...] = ()
    make_op: Callable[[Resolve, int], Op] = lambda size, count: Identity()
    over: str | None = None
    repeats: Pattern | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        shared = set(self.sources[0].holes) - {self.over}
        faults = [
            f"{pattern} has the holes {sorted(pattern.holes)}, {self.sources[0]} has {sorted(shared)}"
            for pattern, own in (
                *((pattern, {self.over}) for pattern in self.sources),
                *((pattern, set()) for pattern in (*self.targets, *([self.repeats] if self.repeats else []))),
            )
            if set(pattern.holes) - own != shared
        ]
        if self.over is not None and any(self.over not in pattern.holes for pattern in self.sources):
            faults.append(f"{self.sources[0]} has no hole {self.over!r}")
        if faults:
            raise KeyMapError(f"The rule {self} is malformed:", faults=faults)

    def __str__(self) -> str:
        arrow = f" -> {', '.join(map(str, self.targets))}" if self.targets else ""
        return f"{self.kind}({', '.join(map(str, self.sources))}{arrow})"


def rename(source: str, target: str) -> Rule:
    """The tensor as it is, under another name."""
    return Rule("rename", (Pattern(source),), (Pattern(target),))


def transpose(source: str, target: str, *, dim0: int = 0, dim1: int = 1) -> Rule:
    """The tensor with two dimensions swapped, as between `Conv1D` and `Linear`."""
    return Rule("transpose", (Pattern(source),), (Pattern(target),), lambda size, count: Transpose(dim0, dim1))


def permute_rotary(source: str, target: str, *, heads: Size) -> Rule:
    """A query or key projection whose rotary pairs are neighbours there, and halves here (see `PermuteRotary`)."""
    sides = (Pattern(source),), (Pattern(target),)
    return Rule("permute_rotary", *sides, lambda size, count: PermuteRotary(size(heads)))


def split(source: str, *, into: Sequence[str], sizes: Sequence[Size], dim: int = 0) -> Rule:
    """One tensor there, several here: parts of these sizes along a dimension."""
    if len(into) != len(sizes):
        raise KeyMapError(f"split({source!r}): {len(into)} targets, but {len(sizes)} sizes.")
    targets = tuple(map(Pattern, into))
    return Rule("split", (Pattern(source),), targets, lambda size, count: Split(tuple(map(size, sizes)), dim))


def concat(sources: Sequence[str], *, into: str, sizes: Sequence[Size], dim: int = 0) -> Rule:
    """Several tensors there, of these sizes along a dimension, joined along it here."""
    if len(sources) != len(sizes):
        raise KeyMapError(f"concat(into={into!r}): {len(sources)} sources, but {len(sizes)} sizes.")
    patterns = tuple(map(Pattern, sources))
    return Rule("concat", patterns, (Pattern(into),), lambda size, count: Concat(tuple(map(size, sizes)), dim))


def stack(source: str, target: str, *, over: str) -> Rule:
    """Tensors there that differ in the hole `over`, from 0 on, stacked along a new first dimension here."""
    return Rule("stack", (Pattern(source),), (Pattern(target),), lambda size, count: Stack(count), over=over)


def tie(source: str, *, to: str) -> Rule:
    """A tensor there that repeats another one there; checked when it is loaded, copied when it is exported."""
    return Rule("tie", (Pattern(source),), repeats=Pattern(to))


def drop(source: str, *, reason: str) -> Rule:
    """A tensor there that is not needed here, and why."""
    return Rule("drop", (Pattern(source),), reason=reason)

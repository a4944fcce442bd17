"""The rules of a key map, as they stand in a family's `loader.py`.

A rule names both sides by patterns. Sizes are numbers, fields of the family's config,
products of them, or differences of such.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from kinfold.errors import KeyMapError
from kinfold.keymap.ops import (
    Affine,
    Concat,
    Identity,
    Op,
    Pad,
    PermuteRotary,
    Reshape,
    Split,
    Stack,
    Transpose,
    Unpad,
    Unstack,
)
from kinfold.keymap.pattern import Holes, Pattern

Size = int | str
"""A number, the name of the config's field that has it, a product of such, `"num_heads * head_dim"`, or a difference of
those, `"head_dim - rotary_dim"`."""

Resolve = Callable[[Size], int]

MakeOp = Callable[[Resolve, int], Op]
"""Gives a rule's operation once sizes are known, for so many tensors over the hole `over`."""


@dataclass(frozen=True, eq=False)
class Rule:
    """One rule: the foreign tensors it takes, the native ones it gives, and the operation between them.

    Two rules are equal if they are written the same.

    Attributes:
        text: The rule as it is written in Python.
        sources: The foreign tensors.
        targets: The native tensors; none for a rule that only takes.
        make_op: Gives the operation.
        over: A hole that one application runs through, on either side.
        count: How many tensors there are over it; where None, as many as are found.
        repeats: The foreign tensor that the source is a copy of.
        written: Whether a source that repeats another one is written on the way back.
        when: The switch of the config that has to be on: a field that is true, or that may be None and is not. None
            for a rule that always holds.
        unless: The switch of the config that has to be off; None likewise.
        reason: Why the source is not needed.
    """

    text: str
    sources: tuple[Pattern, ...]
    targets: tuple[Pattern, ...] = ()
    make_op: MakeOp = lambda size, count: Identity()
    over: str | None = None
    count: Size | None = None
    repeats: Pattern | None = None
    written: bool = True
    when: str | None = None
    unless: str | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        patterns = (*self.sources, *self.targets, *([self.repeats] if self.repeats else []))
        shared = self.holes
        faults = [
            f"{pattern} has the holes {sorted(pattern.holes)}, {patterns[0]} has {sorted(shared)}"
            for pattern in patterns
            if set(pattern.holes) - {self.over} != shared
        ]
        with_over = [pattern for pattern in patterns if self.over in pattern.holes]
        if self.over is not None and len(with_over) in (0, len(patterns)):
            faults.append(f"the hole {self.over!r} has to be in some of its patterns, not in {len(with_over)}")
        if faults:
            raise KeyMapError(f"The rule {self} is malformed:", faults=faults)

    @property
    def kind(self) -> str:
        """The name of the function that makes it."""
        return self.text.partition("(")[0]

    @property
    def holes(self) -> frozenset[str]:
        """The holes that all its patterns have."""
        return frozenset(self.sources[0].holes) - {self.over}

    @property
    def unswitched(self) -> str:
        """The rule as it would be written if it always held."""
        text = self.text
        for name, switch in (("when", self.when), ("unless", self.unless)):
            text = text.replace(f", {name}={_literal(switch)}", "") if switch is not None else text
        return text

    def names(self, patterns: Iterable[Pattern], holes: Holes, count: int) -> list[str]:
        """The names of one application, for `count` tensors over the hole `over`: pattern after pattern."""
        names = []
        for pattern in patterns:
            if self.over in pattern.holes:
                names += [pattern.format({**holes, self.over or "": number}) for number in range(count)]
            else:
                names.append(pattern.format(holes))
        return names

    def __str__(self) -> str:
        arrow = f" -> {', '.join(map(str, self.targets))}" if self.targets else ""
        return f"{self.kind}({', '.join(map(str, self.sources))}{arrow})"

    def __repr__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rule) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)


def rename(source: str, target: str, *, unless: str | None = None) -> Rule:
    """The tensor as it is, under another name; with `unless`, where that switch of the config is off."""
    text = _text("rename", source, target, unless=unless)
    return Rule(text, (Pattern(source),), (Pattern(target),), unless=unless)


def transpose(source: str, target: str, *, dim0: int = 0, dim1: int = 1) -> Rule:
    """The tensor with two dimensions swapped, as between `Conv1D` and `Linear`."""
    options = {"dim0": dim0, "dim1": dim1} if (dim0, dim1) != (0, 1) else {}
    return _one_to_one("transpose", source, target, options, lambda size, count: Transpose(dim0, dim1))


def reshape(source: str, target: str, *, there: Sequence[Size], here: Sequence[Size]) -> Rule:
    """The same values in the same order, in another shape; on each side one size may be -1, for what is left."""

    def make_op(size: Resolve, count: int) -> Op:
        shapes = (tuple(-1 if part == -1 else size(part) for part in sizes) for sizes in (there, here))
        return Reshape(*shapes)

    return _one_to_one("reshape", source, target, {"there": tuple(there), "here": tuple(here)}, make_op)


def permute_rotary(
    source: str, target: str, *, heads: Size, rotary_dim: Size | None = None, start: Size | None = None
) -> Rule:
    """A query or key projection whose rotary pairs are neighbours there, and halves here (see `PermuteRotary`)."""

    def make_op(size: Resolve, count: int) -> Op:
        turning = None if rotary_dim is None else size(rotary_dim)
        return PermuteRotary(size(heads), "halves", turning, 0 if start is None else size(start))

    options = {"heads": heads, "rotary_dim": rotary_dim, "start": start}
    return _one_to_one("permute_rotary", source, target, options, make_op)


def pad(source: str, target: str, *, size: Size, padded: Size, dim: int = 0) -> Rule:
    """A tensor with `size` in a dimension there, filled up with zeros to `padded` here."""
    options = {"size": size, "padded": padded, "dim": dim or None}
    return _one_to_one("pad", source, target, options, lambda get, count: Pad(get(size), get(padded), dim))


def unpad(source: str, target: str, *, padded: Size, size: Size, dim: int = 0) -> Rule:
    """A tensor filled up with zeros to `padded` in a dimension there, with `size` here."""
    options = {"padded": padded, "size": size, "dim": dim or None}
    return _one_to_one("unpad", source, target, options, lambda get, count: Unpad(get(padded), get(size), dim))


def scale(source: str, target: str, *, by: float) -> Rule:
    """A tensor that is multiplied by a number on its way here."""
    return _one_to_one("scale", source, target, {"by": by}, lambda size, count: Affine(factor=by))


def offset(source: str, target: str, *, by: float) -> Rule:
    """A tensor to which a number is added on its way here, as to a norm that is stored minus one."""
    return _one_to_one("offset", source, target, {"by": by}, lambda size, count: Affine(offset=by))


def split(source: str, *, into: Sequence[str], sizes: Sequence[Size], dim: int = 0, groups: Size = 1) -> Rule:
    """One tensor there, several here: parts of these sizes along a dimension; with `groups`, in turns (see `Split`)."""
    if len(into) != len(sizes):
        raise KeyMapError(f"split({source!r}): {len(into)} targets, but {len(sizes)} sizes.")
    options = {
        "into": tuple(into),
        "sizes": tuple(sizes),
        "dim": dim or None,
        "groups": None if groups == 1 else groups,
    }
    return Rule(
        _text("split", source, **options),
        (Pattern(source),),
        tuple(map(Pattern, into)),
        lambda size, count: Split(tuple(map(size, sizes)), dim, size(groups)),
    )


def concat(sources: Sequence[str], *, into: str, sizes: Sequence[Size], dim: int = 0, groups: Size = 1) -> Rule:
    """Several tensors there, of these sizes along a dimension, joined along it here; with `groups`, in turns."""
    if len(sources) != len(sizes):
        raise KeyMapError(f"concat(into={into!r}): {len(sources)} sources, but {len(sizes)} sizes.")
    options = {"sizes": tuple(sizes), "dim": dim or None, "groups": None if groups == 1 else groups}
    return Rule(
        _text("concat", tuple(sources), into=into, **options),
        tuple(map(Pattern, sources)),
        (Pattern(into),),
        lambda size, count: Concat(tuple(map(size, sizes)), dim, size(groups)),
    )


def stack(source: str, target: str, *, over: str, count: Size | None = None) -> Rule:
    """Tensors there that differ in the hole `over`, from 0 on, stacked along a new first dimension here."""
    text = _text("stack", source, target, over=over, count=count)
    make_op: MakeOp = lambda size, count: Stack(count)  # noqa: E731
    return Rule(text, (Pattern(source),), (Pattern(target),), make_op, over=over, count=count)


def unstack(source: str, target: str, *, over: str, count: Size) -> Rule:
    """One tensor there, taken apart along its first dimension into tensors here that differ in the hole `over`."""
    text = _text("unstack", source, target, over=over, count=count)
    make_op: MakeOp = lambda size, count: Unstack(count)  # noqa: E731
    return Rule(text, (Pattern(source),), (Pattern(target),), make_op, over=over, count=count)


def tie(source: str, *, to: str, when: str | None = None, written: bool = True) -> Rule:
    """A tensor there that repeats another one there; checked when it is loaded, copied when it is exported.

    Args:
        source: The tensor.
        to: The one that it repeats.
        when: The switch of the config that has to be on for that, as `"tied_embeddings"`; None if it always repeats it.
        written: False where some checkpoints have the copy, and those that are exported shall not.
    """
    text = _text("tie", source, to=to, when=when, written=None if written else False)
    return Rule(text, (Pattern(source),), repeats=Pattern(to), written=written, when=when)


def drop(source: str, *, reason: str, when: str | None = None) -> Rule:
    """A tensor there that is not needed here, and why; with `when`, only where that switch of the config is on."""
    return Rule(_text("drop", source, reason=reason, when=when), (Pattern(source),), when=when, reason=reason)


def _one_to_one(kind: str, source: str, target: str, options: Mapping[str, object], make_op: MakeOp) -> Rule:
    return Rule(_text(kind, source, target, **options), (Pattern(source),), (Pattern(target),), make_op)


def _text(kind: str, *arguments: object, **options: object) -> str:
    """The call that makes a rule; options that are None are left out."""
    named = [f"{name}={_literal(value)}" for name, value in options.items() if value is not None]
    return f"{kind}({', '.join([*map(_literal, arguments), *named])})"


def _literal(value: object) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_literal, value))}{',' if len(value) == 1 else ''})"
    # A JSON string is one of Python's, too, as long as no character of it is written as two.
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)

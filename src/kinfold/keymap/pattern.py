"""Patterns of tensor names, with named holes for the numbers in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property

from kinfold.errors import KeyMapError

_NUMBER = re.compile(r"([0-9]+)")  # not \d, which takes the digits of every script for the same numbers
_PIECE = re.compile(r"\{([^{}]*)\}|([0-9]+)")
_WHOLE_PIECE = re.compile(r"\{([^{}]*)\}|(?<![^.])([0-9]+)(?![^.])")
_MOST_DIGITS = 18

Holes = Mapping[str, int]
"""The numbers that stand in the holes of a pattern, by name."""

Numbers = tuple[str, ...]
"""The numbers in a name, as they are written."""


def normalise(name: str) -> tuple[str, Numbers]:
    """A name with `{}` for each run of digits, and the runs: `layers.3.w1` gives `layers.{}.w{}` and 3, 1."""
    parts = _NUMBER.split(name)
    return "{}".join(parts[::2]), tuple(parts[1::2])


def normalise_segments(name: str) -> tuple[str, Numbers]:
    """Like `normalise`, but only for segments that are all digits: `layers.3.w1` gives `layers.{}.w1` and 3.

    It takes a third of the time.
    """
    numbers = []
    segments = name.split(".")
    for place, segment in enumerate(segments):
        if segment.isdigit() and segment.isascii():
            numbers.append(segment)
            segments[place] = "{}"
    return ".".join(segments), tuple(numbers)


class Pattern:
    """A tensor name in which numbers may be named holes, as in `layers.{layer}.experts.{expert}.w1.weight`.

    A hole takes a run of at most 18 digits without leading zeros; every other character stands for itself.

    Raises:
        KeyMapError: The braces are not balanced, or a hole's name is no identifier or stands twice.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.holes = tuple(hole for hole, digits in _PIECE.findall(text) if not digits)
        rest = _PIECE.sub("", text)
        faults = []
        if not text:
            faults.append("it is empty")
        if "{" in rest or "}" in rest:
            faults.append("its braces are not balanced")
        faults += [f"the hole {hole!r} is no identifier" for hole in self.holes if not hole.isidentifier()]
        faults += [f"the hole {hole!r} stands twice" for hole in set(self.holes) if self.holes.count(hole) > 1]
        if faults:
            raise KeyMapError(f"The pattern {text!r} is malformed:", faults=faults)

    @cached_property
    def holes_are_segments(self) -> bool:
        """Whether every hole stands between dots, so that names can be looked up by `normalise_segments`."""
        return all(segment.count("{") == 0 or _PIECE.fullmatch(segment) for segment in self.text.split("."))

    def form(self, *, segments: bool) -> tuple[str, tuple[tuple[str, str], ...]]:
        """The pattern as `normalise` (or `normalise_segments`) would give it for a name that it matches.

        Returns:
            The normalised form, and for each number of such a name the hole that takes it, or the digits it has to be.
        """
        piece = _WHOLE_PIECE if segments else _PIECE
        return piece.sub("{}", self.text), tuple(piece.findall(self.text))

    def match(self, name: str) -> Holes | None:
        """What stands in the holes if `name` is of this pattern, else None."""
        key, slots = self.form(segments=False)
        found, numbers = normalise(name)
        if found != key or len(numbers) != len(slots):  # braces may stand in the name itself
            return None
        if not all(fits(number, slot) for number, slot in zip(numbers, slots, strict=True)):
            return None
        return {hole: int(number) for (hole, _), number in zip(slots, numbers, strict=True) if hole}

    @cached_property
    def template(self) -> str:
        """The pattern for the `%` operator, which takes the holes' numbers in the order of `holes`."""
        return _PIECE.sub(lambda piece: "%s" if piece[1] else piece[0], self.text.replace("%", "%%"))

    def format(self, holes: Holes) -> str:
        """The name with these numbers in the holes."""
        return self.template % tuple([holes[hole] for hole in self.holes])

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)


def fits(number: str, slot: tuple[str, str]) -> bool:
    """Whether a number may stand where a pattern has this hole or these digits."""
    hole, digits = slot
    if hole:
        return (number[0] != "0" or number == "0") and len(number) <= _MOST_DIGITS
    return number == digits

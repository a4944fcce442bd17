"""Patterns of tensor names, with named holes for the numbers in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property

from kinfold.errors import KeyMapError

_NUMBER = re.compile(r"[0-9]+")  # not \d, which takes the digits of every script for the same numbers
_PIECE = re.compile(r"\{([^{}]*)\}|([0-9]+)")
_MOST_DIGITS = 18

Holes = Mapping[str, int]
"""The numbers that stand in the holes of a pattern, by name."""


def normalise(name: str) -> tuple[str, tuple[str, ...]]:
    """A name with `{}` for each run of digits, and the runs: `layers.3.w1` gives `layers.{}.w{}` and 3, 1."""
    return _NUMBER.sub("{}", name), tuple(_NUMBER.findall(name))


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
    def key(self) -> str:
        """The pattern as `normalise` would give it for a name that it matches."""
        return _PIECE.sub("{}", self.text)

    @cached_property
    def _slots(self) -> tuple[tuple[str, str], ...]:
        """For each number of a name: the hole that takes it, or the digits it has to be."""
        return tuple(_PIECE.findall(self.text))

    def match(self, name: str) -> Holes | None:
        """What stands in the holes if `name` is of this pattern, else None."""
        key, numbers = normalise(name)
        return self.match_numbers(numbers) if key == self.key else None

    def match_numbers(self, numbers: tuple[str, ...]) -> Holes | None:
        """Like `match`, for a name whose normalised form is known to be `key`."""
        if len(numbers) != len(self._slots):  # braces stand in the name itself
            return None
        holes = {}
        for (hole, digits), number in zip(self._slots, numbers, strict=True):
            if hole:
                if (number[0] == "0" and number != "0") or len(number) > _MOST_DIGITS:
                    return None
                holes[hole] = int(number)
            elif digits != number:
                return None
        return holes

    def format(self, holes: Holes) -> str:
        """The name with these numbers in the holes."""
        return _PIECE.sub(lambda piece: str(holes[piece[1]]) if piece[1] else piece[0], self.text)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

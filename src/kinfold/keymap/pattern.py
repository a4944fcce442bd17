"""Patterns of tensor names, with named holes for the numbers in them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from operator import itemgetter

from kinfold.errors import KeyMapError

_NUMBER = re.compile(r"([0-9]+)")  # not \d, which takes the digits of every script for the same numbers
_PIECE = re.compile(r"\{([^{}]*)\}|([0-9]+)")
_ZEROS = str.maketrans("123456789", "0" * 9)
_MOST_DIGITS = 18

Holes = Mapping[str, int]
"""The numbers that stand in the holes of a pattern, by name."""

Numbers = tuple[str, ...]
"""The numbers in a name, as they are written."""

Named = tuple[str, Numbers]
"""A name, and the numbers in it."""


def normalise(name: str) -> tuple[str, Numbers]:
    """A name with `{}` for each run of digits, and the runs: `layers.3.w1` gives `layers.{}.w{}` and 3, 1.

    A brace that stands in the name itself is doubled, so that a form has as many numbers as holes.
    """
    parts = _NUMBER.split(name.replace("{", "{{"))
    return "{}".join(parts[::2]), tuple(parts[1::2])


def by_form(names: Iterable[str]) -> dict[str, list[Named]]:
    """Names by what `normalise` gives for them, each with its numbers.

    Names whose digits stand at the same places are cut at the same places, which are looked for once for all of them:
    a quarter of the time of normalising one by one.
    """
    names = list(names)
    forms: dict[str, list[Named]] = {}
    known: dict[str, tuple[list[Named], Callable[[str], Numbers]]] = {}
    outlines = "".join(names).translate(_ZEROS)  # at once: a call for each name would take longer than all the rest
    start = 0
    for name in names:
        end = start + len(name)
        outline = outlines[start:end]
        start = end
        if outline not in known:
            known[outline] = forms.setdefault(normalise(outline)[0], []), _cut(outline)
        group, numbers = known[outline]
        group.append((name, numbers(name)))
    return forms


def _cut(outline: str) -> Callable[[str], Numbers]:
    """What cuts the numbers out of a name that has digits where this one has them."""
    spans = [slice(*number.span()) for number in _NUMBER.finditer(outline)]
    if len(spans) > 1:
        return itemgetter(*spans)
    return lambda name: tuple([name[span] for span in spans])


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

    def form(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        """The pattern as `normalise` would give it for a name that it matches.

        Returns:
            The normalised form, and for each number of such a name the hole that takes it, or the digits it has to be.
        """
        return _PIECE.sub("{}", self.text), tuple(_PIECE.findall(self.text))

    def match(self, name: str) -> Holes | None:
        """What stands in the holes if `name` is of this pattern, else None."""
        key, slots = self.form()
        found, numbers = normalise(name)
        if found != key or not all(
            fits_hole(number) if hole else number == digits
            for number, (hole, digits) in zip(numbers, slots, strict=True)
        ):
            return None
        return {hole: int(number) for (hole, _), number in zip(slots, numbers, strict=True) if hole}

    @cached_property
    def template(self) -> str:
        """The pattern for the `%` operator, which takes the holes' numbers in the order of `holes`."""
        return _PIECE.sub(lambda piece: "%s" if piece[1] else piece[0], self.text.replace("%", "%%"))

    def format(self, holes: Holes) -> str:
        """The name with these numbers in the holes."""
        return self.text.format_map(holes)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)


def fits_hole(number: str) -> bool:
    """Whether a number may stand in a hole."""
    return (number[0] != "0" or number == "0") and len(number) <= _MOST_DIGITS

"""The structure of a manifest: which numbers in its names count alike modules, and which only tell names apart.

`layers.0.w1` and `layers.1.w1` are one group, `layers.{}.w1`: the first number is a hole, the second is not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, filterfalse, pairwise
from statistics import fmean

from kinfold.checkpoint.manifest import Manifest, TensorInfo
from kinfold.keymap.pattern import by_form, fits_hole, normalise
from kinfold.memory import collector_paused

Place = tuple[int, ...]
"""The numbers in the holes of a group, from left to right."""

_ALIKE = 0.5
"""How much of what two neighbours of a list hold has to be the same for it to be a list."""


@dataclass(frozen=True, eq=False)
class Group:
    """Tensors whose names differ only in what counts alike modules.

    Attributes:
        parts: The text between the holes: one more than there are holes.
        tensors: The tensors, by the numbers in the holes.
    """

    parts: tuple[str, ...]
    tensors: Mapping[Place, TensorInfo]

    @cached_property
    def text(self) -> str:
        """The pattern, with `{}` for a hole."""
        return "{}".join(self.parts)

    @cached_property
    def lists(self) -> tuple[str, ...]:
        """For each hole, the pattern of the list it counts: all before it."""
        return tuple("{}".join(self.parts[: n + 1]) for n in range(len(self.parts) - 1))

    @cached_property
    def places(self) -> frozenset[Place]:
        """The numbers that stand in the holes."""
        return frozenset(self.tensors)

    @cached_property
    def shapes(self) -> frozenset[tuple[int, ...]]:
        """Every shape of its tensors."""
        return frozenset(info.shape for info in self.tensors.values())

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of its first tensor."""
        return self.tensors[min(self.tensors)].shape

    @cached_property
    def first_name(self) -> str:
        """The name of its first tensor."""
        return self.name(min(self.tensors))

    @property
    def parent(self) -> str:
        """The pattern without its last two segments: the module that holds the module of this parameter."""
        return self.text.rpartition(".")[0].rpartition(".")[0]

    def name(self, place: Place) -> str:
        """The name of the tensor at a place."""
        return "".join(f"{part}{number}" for part, number in zip(self.parts, place, strict=False)) + self.parts[-1]

    def pattern(self, holes: Iterable[str]) -> str:
        """The pattern with names for its holes."""
        braced = [f"{{{hole}}}" for hole in holes]
        return "".join(f"{part}{hole}" for part, hole in zip(self.parts, braced, strict=False)) + self.parts[-1]

    def __repr__(self) -> str:
        return f"Group({self.text!r}, {len(self.tensors)} x {self.shape})"


@collector_paused()
def group_tensors(manifest: Manifest, *, but: Collection[str] = ()) -> list[Group]:
    """The groups of a manifest, in the order in which their forms first come.

    Args:
        manifest: The tensors.
        but: Lists whose numbers are not to count, though they could.

    A number is a hole if it counts, from 0 and without gaps, things that are alike: modules that mostly hold the same
    parameters, or plain parameters of one shape.
    """
    forms, odd = _forms(manifest)
    counting = _counting_lists(forms) - {normalise(text.replace("{}", "0"))[0] for text in but}
    found = [Group(parts, tensors) for form in forms for parts, tensors in form.divided(counting).items()]
    return [*found, *(Group((name,), {(): manifest[name]}) for name in odd)]


@dataclass(frozen=True)
class _Form:
    """Names that differ in their numbers alone, and the tensors by these numbers.

    What stands before a number, with all earlier numbers as they are, is a list.
    """

    parts: tuple[str, ...]
    tensors: Mapping[Place, TensorInfo]

    @cached_property
    def prefixes(self) -> list[str]:
        """What stands before each number."""
        return ["{}".join(self.parts[: column + 1]) for column in range(len(self.parts) - 1)]

    def divided(self, counting: Collection[str]) -> Mapping[tuple[str, ...], Mapping[Place, TensorInfo]]:
        """The tensors by the text between those numbers that count, and by these numbers."""
        if all(prefix in counting for prefix in self.prefixes):
            return {self.parts: self.tensors}
        found: defaultdict[tuple[str, ...], dict[Place, TensorInfo]] = defaultdict(dict)
        for place, info in self.tensors.items():
            parts, numbers = [self.parts[0]], []
            for number, prefix, part in zip(place, self.prefixes, self.parts[1:], strict=True):
                if prefix in counting:
                    parts.append(part)
                    numbers.append(number)
                else:
                    parts[-1] += f"{number}{part}"
            found[tuple(parts)][tuple(numbers)] = info
        return found


def _forms(manifest: Manifest) -> tuple[list[_Form], list[str]]:
    """The forms of a manifest, and the names that no pattern has: with braces, or with numbers that fit no hole."""
    forms: list[_Form] = []
    odd: list[str] = []
    for text, named in by_form(manifest).items():
        braces = not {"{", "}"}.isdisjoint(named[0][0])  # what is no digit is the same in all of them
        unfit = set(filterfalse(fits_hole, set(chain.from_iterable(numbers for _, numbers in named))))
        tensors: dict[Place, TensorInfo] = {}
        for name, numbers in named:
            if braces or not unfit.isdisjoint(numbers):
                odd.append(name)
            else:
                tensors[tuple(map(int, numbers))] = manifest[name]
        if tensors:
            forms.append(_Form(tuple(text.split("{}")), tensors))
    return forms, odd


Rest = tuple[str, Place]
"""What stands in a name behind a number, and the numbers in it."""


def _counting_lists(forms: Iterable[_Form]) -> set[str]:
    """The prefixes of the numbers that count: all lists of one prefix count, or none does."""
    lists: defaultdict[tuple[str, Place], defaultdict[int, dict[Rest, tuple[int, ...]]]]
    lists = defaultdict(lambda: defaultdict(dict))
    for form in forms:
        for column, prefix in enumerate(form.prefixes):
            rest = "{}".join(form.parts[column + 1 :])
            for place, info in form.tensors.items():
                lists[prefix, place[:column]][place[column]][rest, place[column + 1 :]] = info.shape
    votes: defaultdict[str, list[bool]] = defaultdict(list)
    for (prefix, _), members in lists.items():
        if (vote := _is_list(prefix, members)) is not None:
            votes[prefix].append(vote)
    return {prefix for prefix, found in votes.items() if 2 * sum(found) > len(found)}


def _is_list(prefix: str, members: Mapping[int, Mapping[Rest, tuple[int, ...]]]) -> bool | None:
    """Whether the members of a list are alike; None where a single member does not tell."""
    if len(members) == 1:
        (number,) = members
        return None if number == 0 and prefix.endswith(".") else False
    if sorted(members) != list(range(len(members))):
        return False
    ordered = [members[number] for number in range(len(members))]
    plain = all(len(member) <= 2 and not any("." in rest.strip(".") for rest, _ in member) for member in ordered)
    if plain:
        return prefix.endswith(".") and all(member == ordered[0] for member in ordered)
    kinds = {frozenset(member) for member in ordered}
    return 2 * len(kinds) <= len(ordered) or fmean(_overlap(a, b) for a, b in pairwise(ordered)) >= _ALIKE


def _overlap(a: Mapping[Rest, object], b: Mapping[Rest, object]) -> float:
    return len(a.keys() & b.keys()) / max(1, len(a.keys() | b.keys()))

"""The structure of a manifest: which numbers in its names count alike modules, and which only tell names apart.

`layers.0.w1` and `layers.1.w1` are one group, `layers.{}.w1`: the first number is a hole, the second is not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

from kinfold.checkpoint.manifest import Manifest, TensorInfo
from kinfold.keymap.pattern import normalise

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


@dataclass
class _Form:
    """Names of one normalised form, by the numbers in them."""

    key: str
    tensors: dict[Place, TensorInfo] = field(default_factory=dict)


def group_tensors(manifest: Manifest, *, but: Collection[str] = ()) -> list[Group]:
    """The groups of a manifest, in the order of their first tensors.

    Args:
        manifest: The tensors.
        but: Lists whose numbers are not to count, though they could.

    A number is a hole if it counts, from 0 and without gaps, things that are alike: modules that mostly hold the same
    parameters, or plain parameters of one shape.
    """
    forms: dict[str, _Form] = {}
    odd: dict[str, TensorInfo] = {}
    for name, info in manifest.items():
        key, numbers = normalise(name)
        place = tuple(map(int, numbers))
        if "{" in name or "".join(map(str, place)) != "".join(numbers):  # leading zeros: no number to count with
            odd[name] = info
        else:
            forms.setdefault(key, _Form(key)).tensors[place] = info
    lists = _Lists(forms.values(), but)
    groups: dict[tuple[str, ...], dict[Place, TensorInfo]] = {}
    for form in forms.values():
        pieces = form.key.split("{}")
        for place, info in form.tensors.items():
            parts, numbers = [pieces[0]], []
            for column, number in enumerate(place):
                if lists.counts(pieces, place, column):
                    parts.append(pieces[column + 1])
                    numbers.append(number)
                else:
                    parts[-1] += f"{number}{pieces[column + 1]}"
            groups.setdefault(tuple(parts), {})[tuple(numbers)] = info
    found = [Group(parts, tensors) for parts, tensors in groups.items()]
    return [*found, *(Group((name,), {(): info}) for name, info in odd.items())]


class _Lists:
    """Decides which columns of numbers count.

    What stands before a column, with all earlier numbers as they are, is one list; it counts if its members are alike.
    All lists of one form count, or none does.
    """

    def __init__(self, forms: Iterable[_Form], but: Collection[str]) -> None:
        members: dict[tuple[str, Place], dict[int, dict[str, tuple[int, ...]]]] = {}
        for form in forms:
            pieces = form.key.split("{}")
            for place, info in form.tensors.items():
                for column, number in enumerate(place):
                    prefix = "{}".join(pieces[: column + 1])
                    rest = [
                        pieces[column + 1],
                        *(f"{n}{piece}" for n, piece in zip(place[column + 1 :], pieces[column + 2 :], strict=True)),
                    ]
                    of_list = members.setdefault((prefix, place[:column]), {})
                    of_list.setdefault(number, {})["".join(rest)] = info.shape
        votes: dict[str, list[bool]] = {}
        for (prefix, _), found in members.items():
            if (vote := _is_list(prefix, found)) is not None:
                votes.setdefault(prefix, []).append(vote)
        self._counting = {prefix for prefix, found in votes.items() if 2 * sum(found) > len(found)}
        self._counting -= {normalise(text)[0] for text in but}

    def counts(self, pieces: list[str], place: Place, column: int) -> bool:
        """Whether the number in a column of a form counts."""
        return "{}".join(pieces[: column + 1]) in self._counting


def _is_list(prefix: str, members: Mapping[int, Mapping[str, tuple[int, ...]]]) -> bool | None:
    """Whether the members of a list are alike; None where a single member does not tell."""
    if len(members) == 1:
        (number,) = members
        return None if number == 0 and prefix.endswith(".") else False
    if sorted(members) != list(range(len(members))):
        return False
    ordered = [members[number] for number in range(len(members))]
    plain = all(len(member) <= 2 and not any("." in rest.strip(".") for rest in member) for member in ordered)
    if plain:
        return prefix.endswith(".") and len({tuple(sorted(member.items())) for member in ordered}) == 1
    kinds = {frozenset(member) for member in ordered}
    overlap = [_overlap(a, b) for a, b in pairwise(ordered)]
    return sum(overlap) / len(overlap) >= _ALIKE or 2 * len(kinds) <= len(ordered)


def _overlap(a: Mapping[str, object], b: Mapping[str, object]) -> float:
    return len(a.keys() & b.keys()) / max(1, len(a.keys() | b.keys()))

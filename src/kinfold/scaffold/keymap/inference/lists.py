"""Which list of modules there is which here: `model.layers` and `decoder.layers`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kinfold.scaffold.keymap.inference.assignment import best_pairs
from kinfold.scaffold.keymap.inference.groups import Group, Place
from kinfold.scaffold.keymap.inference.words import Vocabulary


@dataclass
class _List:
    """A list of modules.

    Attributes:
        text: The pattern of all before its numbers.
        outer: The list it stands in, or "".
        places: The numbers that were seen, with those of the lists it stands in.
        shapes: How often it has a parameter of a shape.
    """

    text: str
    outer: str
    places: set[Place] = field(default_factory=set)
    shapes: Counter[tuple[int, ...]] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Alignment:
    """Which lists go together, as patterns.

    Attributes:
        there: The native list of each foreign one that has a partner.
        here: Of each native list that has a partner the one that stands for it in `there`: mostly itself.
    """

    there: dict[str, str] = field(default_factory=dict)
    here: dict[str, str] = field(default_factory=dict)

    def of_source(self, group: Group) -> tuple[str, ...]:
        """The lists of a foreign group that have a partner, as native ones."""
        return tuple(self.there[name] for name in group.lists if name in self.there)

    def of_target(self, group: Group) -> tuple[str, ...]:
        """The lists of a native group that have a partner."""
        return tuple(self.here[name] for name in group.lists if name in self.here)


def align_lists(sources: Iterable[Group], targets: Iterable[Group], vocabulary: Vocabulary) -> Alignment:
    """Pair the lists of both sides: those with the same numbers whose names and contents are most alike.

    A list within a list has a partner only if the outer ones are partners. What one side has in one list the other may
    have in several: `norms.{}` and `ffns.{}` in `layers.{}`.
    """
    there, here = _lists(sources), _lists(targets)
    aligned = Alignment({"": ""}, {"": ""})
    for depth in range(max((text.count("{}") for text in there), default=-1) + 1):
        rows = [item for item in there.values() if item.text.count("{}") == depth]
        columns = [item for item in here.values() if item.text.count("{}") == depth]
        scores = {
            (r, c): _score(row, column, vocabulary)
            for r, row in enumerate(rows)
            for c, column in enumerate(columns)
            if _same_numbers(row, column, aligned)
        }
        partners: list[tuple[_List, _List]] = []
        for row, (column, _, _) in best_pairs(scores, len(rows), len(columns)).items():
            aligned.there[rows[row].text] = aligned.here[columns[column].text] = columns[column].text
            partners.append((rows[row], columns[column]))
        _align_rest(rows, columns, partners, aligned, vocabulary)
    del aligned.there[""], aligned.here[""]
    return aligned


def _same_numbers(row: _List, column: _List, aligned: Alignment) -> bool:
    outer = aligned.there.get(row.outer)
    return outer is not None and outer == aligned.here.get(column.outer) and row.places == column.places


def _align_rest(
    rows: Sequence[_List],
    columns: Sequence[_List],
    partners: Sequence[tuple[_List, _List]],
    aligned: Alignment,
    vocabulary: Vocabulary,
) -> None:
    """Give lists without a partner one that has one already, if that holds what they hold beyond its partner."""
    more_there = {column.text: column.shapes - row.shapes for row, column in partners}
    more_here = {row.text: row.shapes - column.shapes for row, column in partners}
    for row in (row for row in rows if row.text not in aligned.there):
        fits = [column for _, column in partners if _same_numbers(row, column, aligned)]
        best = _with_room(row, fits, more_there, vocabulary)
        if best is not None:
            aligned.there[row.text] = best.text
    for column in (column for column in columns if column.text not in aligned.here):
        fits = [row for row, _ in partners if _same_numbers(row, column, aligned)]
        best = _with_room(column, fits, more_here, vocabulary)
        if best is not None:
            aligned.here[column.text] = aligned.there[best.text]


def _with_room(
    item: _List, others: Iterable[_List], more: dict[str, Counter[tuple[int, ...]]], vocabulary: Vocabulary
) -> _List | None:
    """The list that has room for all that an item holds, and is most like it."""
    fits = [other for other in others if item.shapes <= more[other.text]]
    best = max(fits, key=lambda other: _named(item, other, vocabulary), default=None)
    if best is not None:
        more[best.text] -= item.shapes
    return best


def _lists(groups: Iterable[Group]) -> Mapping[str, _List]:
    found: dict[str, _List] = {}
    for group in groups:
        for depth, text in enumerate(group.lists):
            item = found.setdefault(text, _List(text, group.lists[depth - 1] if depth else ""))
            item.places.update(place[: depth + 1] for place in group.tensors)
            item.shapes[tuple(sorted(group.shape))] += 1
    return found


def _score(a: _List, b: _List, vocabulary: Vocabulary) -> float:
    """How alike two lists are: what they hold, then what they are called."""
    held = (a.shapes & b.shapes).total() / max(1, (a.shapes | b.shapes).total())
    return 1.0 + 4.0 * held + _named(a, b, vocabulary)


def _named(a: _List, b: _List, vocabulary: Vocabulary) -> float:
    words, others = vocabulary.meaning(f"{a.text}weight").features, vocabulary.meaning(f"{b.text}weight").features
    alike = len(words & others) - 0.5 * len((words ^ others) & vocabulary.telling)
    return alike - 1.5 * vocabulary.conflict(words, others)

"""Which list of modules there is which here: `model.layers` and `decoder.layers`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from kinfold.scaffold.keymap.assignment import best_pairs
from kinfold.scaffold.keymap.groups import Group, Place
from kinfold.scaffold.keymap.words import Vocabulary


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


def align_lists(sources: Iterable[Group], targets: Iterable[Group], vocabulary: Vocabulary) -> dict[str, str]:
    """Pair the lists of both sides: those with the same numbers whose names and contents are most alike.

    Returns:
        The native list of each foreign one that has a partner, as patterns; a list within a list only if the outer
        ones are partners.
    """
    there, here = _lists(sources), _lists(targets)
    aligned: dict[str, str] = {"": ""}
    for depth in range(max((text.count("{}") for text in there), default=-1) + 1):
        rows = [item for item in there.values() if item.text.count("{}") == depth]
        columns = [item for item in here.values() if item.text.count("{}") == depth]
        scores = {
            (r, c): _score(row, column, vocabulary)
            for r, row in enumerate(rows)
            for c, column in enumerate(columns)
            if aligned.get(row.outer) == column.outer and row.places == column.places
        }
        for row, (column, _, _) in best_pairs(scores, len(rows), len(columns)).items():
            aligned[rows[row].text] = columns[column].text
    del aligned[""]
    return aligned


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
    words, others = vocabulary.meaning(f"{a.text}weight").features, vocabulary.meaning(f"{b.text}weight").features
    named = len(words & others) - 0.5 * len((words ^ others) & vocabulary.telling)
    return 1.0 + 4.0 * held + named - 1.5 * vocabulary.conflict(words, others)

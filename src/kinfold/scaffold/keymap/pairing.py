"""What a key map is put together from: pairings that are settled, and questions with their answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kinfold.keymap.rules import Size
from kinfold.scaffold.keymap.inference.groups import Group
from kinfold.scaffold.keymap.inference.relations import Relation

RotaryOrder = Literal["halves", "interleaved"]
"""How the rows of queries and keys lie on the foreign side (see `PermuteRotary`)."""


@dataclass(frozen=True, slots=True)
class Pairing:
    """Foreign groups that become native ones.

    Attributes:
        sources: The foreign groups.
        targets: The native groups; on one side at least there is a single one.
        relation: How they go together.
        dim: Of several that are one: the dimension in which they are joined, counted in the shape of the several.
        turns: Of several that are one: in how many turns they are laid out (see `Split`).
        evidence: What speaks for it, for a person.
        confidence: Between 0 and 1.
    """

    sources: tuple[Group, ...]
    targets: tuple[Group, ...]
    relation: Relation
    dim: int = 0
    turns: Size = 1
    evidence: str = ""
    confidence: float = 1.0

    @property
    def groups(self) -> tuple[Group, ...]:
        """Those of both sides."""
        return (*self.sources, *self.targets)

    @property
    def fused(self) -> bool:
        """Whether one tensor there is several here, or the other way round."""
        return len(self.groups) > 2

    def __str__(self) -> str:
        there, here = (", ".join(group.text for group in side) for side in (self.sources, self.targets))
        how = [self.relation.kind] if self.relation.kind != "same" else []
        how += [f"in turns by {self.turns}"] if self.turns != 1 else []
        return f"{there} -> {here}" + (f" ({', '.join(how)})" if how else "")


@dataclass(frozen=True, slots=True)
class Answer:
    """One way to settle a question.

    Attributes:
        pairings: What goes together then.
        rotary: How queries and keys lie then; None if the answer does not say.
    """

    pairings: tuple[Pairing, ...] = ()
    rotary: RotaryOrder | None = None

    def __str__(self) -> str:
        return self.rotary or "; ".join(map(str, self.pairings))


@dataclass(frozen=True, slots=True)
class Question:
    """Something that names and shapes do not settle.

    Attributes:
        about: What is asked, for a person.
        answers: Its answers, the simplest first.
        complete: Whether that is all of them; there may be too many.
    """

    about: str
    answers: tuple[Answer, ...]
    complete: bool = True


def module_of(group: Group) -> str:
    """The module that a parameter is of: its name without the last segment."""
    return group.text.rpartition(".")[0]

"""What was proved, as text and as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        name: What was checked.
        holds: Whether it holds.
        detail: What was found, in one line.
        faults: Where it does not hold: all places.
    """

    name: str
    holds: bool
    detail: str
    faults: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{'ok  ' if self.holds else 'FAIL'}  {self.name}: {self.detail}"]
        return "\n".join([*lines, *(f"      - {fault}" for fault in self.faults)])


@dataclass(frozen=True, slots=True)
class Proof:
    """The checks of one card."""

    card: str
    family: str
    checks: tuple[Check, ...]

    @property
    def holds(self) -> bool:
        """Whether every check holds."""
        return all(check.holds for check in self.checks)

    def __str__(self) -> str:
        return "\n".join(str(check) for check in self.checks)

    def as_data(self) -> dict[str, Any]:
        """The proof for programs and for `.kinfold/`."""
        return {"holds": self.holds, **asdict(self)}

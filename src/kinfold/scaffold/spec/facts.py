"""What was found out about a checkpoint, and on what evidence."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

ASSUMED = "assumed"


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact: a field of the spec, its value, and the shape or config key that says so."""

    name: str
    value: Any
    evidence: str

    @property
    def assumed(self) -> bool:
        """Whether nothing in the checkpoint says so; parity with a reference settles such a fact."""
        return self.evidence.startswith(ASSUMED)

    def __str__(self) -> str:
        return f"{self.name} = {self.value}  <- {self.evidence}"


@dataclass
class Findings:
    """Facts and faults as they are gathered. Shapes outrank config keys; a contradiction is a fault."""

    facts: dict[str, Fact] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def note(self, name: str, value: Any, evidence: str) -> None:
        """Take a fact in, or a fault if an earlier fact says otherwise."""
        known = self.facts.get(name)
        if known is None:
            self.facts[name] = Fact(name, value, evidence)
        elif known.value != value:
            self.faults.append(
                f"{name}: {known.value} according to {known.evidence}, but {value} according to {evidence}"
            )

    def value(self, name: str, default: Any = None) -> Any:
        """The value of a fact, or `default` where it is not known."""
        return self.facts[name].value if name in self.facts else default

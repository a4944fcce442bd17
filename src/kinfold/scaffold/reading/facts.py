"""What was found out about a checkpoint, on what evidence, and what is open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

ASSUMED = "assumed"

Answer = Mapping[str, Any]
"""Values of facts that go together."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact.

    Attributes:
        name: A field of the spec, dotted, or what the key map has to know.
        value: Its value.
        evidence: What says so.
        confirmed: Whether something else says so, too.
    """

    name: str
    value: Any
    evidence: str
    confirmed: bool = False

    @property
    def assumed(self) -> bool:
        """Whether nothing in the checkpoint says so; parity with a reference settles such a fact."""
        return self.evidence.startswith(ASSUMED)

    def __str__(self) -> str:
        return f"{self.name} = {self.value}  <- {self.evidence}"


@dataclass(frozen=True, slots=True)
class Question:
    """What neither shapes nor config say.

    Attributes:
        about: What it is about, in a few words.
        answers: What may be so, the likeliest first; that one is assumed.
        doubted: Whether the config says the first, as some configs do of values that their code does not use.
    """

    about: str
    answers: tuple[Answer, ...]
    doubted: bool = False


@dataclass
class Findings:
    """Facts and faults as they are gathered. Shapes outrank config keys; a contradiction is a fault.

    Attributes:
        facts: The facts, by their names.
        questions: What is open.
        faults: What contradicts itself, or cannot be.
        leftovers: What was not understood, though the rest may be right without it.
    """

    facts: dict[str, Fact] = field(default_factory=dict)
    questions: list[Question] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)

    def note(self, name: str, value: Any, evidence: str) -> None:
        """Take a fact in, or a fault if an earlier fact says otherwise; an assumption gives way."""
        known = self.facts.get(name)
        if known is None or known.assumed:
            self.facts[name] = Fact(name, value, evidence)
        elif known.value == value:
            self.facts[name] = replace(known, confirmed=True)
        else:
            self.faults.append(
                f"{name}: {known.value} according to {known.evidence}, but {value} according to {evidence}"
            )

    def ask(self, about: str, *answers: Answer, why: str) -> None:
        """Assume the first answer that no fact contradicts, and keep those that are possible as well.

        Args:
            about: What it is about.
            answers: What may be so, the likeliest first.
            why: What speaks for the first one.
        """
        possible = [answer for answer in answers if all(self.value(n, v) == v for n, v in answer.items())]
        if not possible:
            return
        unknown = [{n: v for n, v in answer.items() if n not in self.facts} for answer in possible]
        for name, value in unknown[0].items():
            self.facts[name] = Fact(name, value, f"{ASSUMED}: {why}")
        if len(possible) > 1 and any(unknown):
            self.questions.append(Question(about, tuple(unknown)))

    def doubt(self, about: str, *answers: Answer) -> None:
        """Hold something against what the config says, should a reference nearly agree."""
        said = {name: self.value(name) for name in answers[0]}
        others = tuple(answer for answer in answers if answer != said)
        self.questions.append(Question(about, (said, *others), doubted=True))

    def value(self, name: str, default: Any = None) -> Any:
        """The value of a fact, or `default` where it is not known."""
        return self.facts[name].value if name in self.facts else default


def answered(facts: Mapping[str, Fact], values: Answer, evidence: str) -> dict[str, Fact]:
    """Facts with these values on this evidence; the others stay."""
    return {**facts, **{name: Fact(name, value, evidence) for name, value in values.items()}}

"""How derived key maps, and what is open in them, are told to a person and to a program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from kinfold.scaffold.keymap.derive import Derived

MOST_ANSWERS = 4


def report(derived: Derived) -> None:
    """Print each rule with its confidence and its evidence, what is open and what would settle it, what is missing."""
    for item in derived.rules:
        click.echo(f"{item.confidence:.2f}  {item.rule}  <- {item.evidence}")
    if derived.rotary is not None:
        order, why = derived.rotary
        click.echo(f"Rotary pairs are {order} in the checkpoint: {why}")
    report_open(derived)
    if derived.complete:
        click.echo(f"Certificate: {derived.certificate}")


def report_open(derived: Derived) -> None:
    """Print what is open and what would settle it; where nothing is, what is not explained."""
    for question in derived.questions:
        number = f"{len(question.answers)}" if question.complete else f"more than {len(question.answers)}"
        click.echo(f"Open: {question.about}, {number} ways:")
        for answer in question.answers[:MOST_ANSWERS]:
            click.echo(f"      {answer}")
        if len(question.answers) > MOST_ANSWERS:
            click.echo("      ...")
    if derived.tried:
        click.echo(f"Against the reference: {derived.tried}.")
    if derived.questions:
        click.echo("What settles it: --reference FILE, --against transformers, or --values CHECKPOINT.")
    else:
        for fault in derived.certificate.faults:
            click.echo(f"Not explained: {fault}")


def as_data(derived: Derived) -> dict[str, Any]:
    """The same for programs."""
    return {
        "complete": derived.complete,
        "rules": [
            {"rule": item.rule.text, "evidence": item.evidence, "confidence": round(item.confidence, 4)}
            for item in derived.rules
        ],
        "rotary": derived.rotary,
        "open": [
            {"about": question.about, "answers": [str(answer) for answer in question.answers], "all": question.complete}
            for question in derived.questions
        ],
        "unexplained": [group.text for group in derived.unexplained],
        "unfilled": [group.text for group in derived.unfilled],
        "reference_agrees": derived.agrees,
        "tried": derived.tried,
        "faults": list(derived.certificate.faults),
    }

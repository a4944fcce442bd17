"""The options that the commands about key maps have in common, and what they stand for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from kinfold.scaffold.keymap.family import Family

F = TypeVar("F", bound=Callable[..., Any])


def checkpoint_options(command: F) -> F:
    """Add what a command is about: a family, a checkpoint, and its arch."""
    return _with(
        command,
        click.argument("family_name", metavar="FAMILY"),
        click.option("--checkpoint", "path", required=True, metavar="PATH", type=click.Path(path_type=Path),
                     help="The checkpoint."),
        click.option("--arch", help="The arch that the checkpoint is of; found by its size if not given."),
    )  # fmt: skip


def evidence_options(command: F) -> F:
    """Add what settles open questions, which the command hands to `evidence`."""
    return _with(
        command,
        click.option("--reference", metavar="FILE", type=click.Path(path_type=Path),
                     help="Settle what is open by recorded logits (token_ids, logits)."),
        click.option("--against", type=click.Choice(["transformers"]),
                     help="Settle what is open by the logits of this implementation."),
        click.option("--values", metavar="CHECKPOINT", type=click.Path(path_type=Path),
                     help="Settle what is open by the same weights in a layout that the family loads."),
        click.option("--tolerance", default=1e-4, show_default=True,
                     help="How far logits may be apart, of the largest."),
    )  # fmt: skip


def _with(command: F, *options: Callable[[F], F]) -> F:
    for option in reversed(options):
        command = option(command)
    return command


def evidence(
    family: Family,
    checkpoint: Path,
    *,
    reference: Path | None,
    against: str | None,
    values: Path | None,
    tolerance: float,
) -> dict[str, Any]:
    """What `derive` and `regenerate` take as evidence, besides names and shapes.

    Raises:
        ProofError: A reference cannot be had.
        click.UsageError: There is more than one reference.
    """
    from kinfold.scaffold.prove.reference import read_reference, run_transformers

    if reference is not None and against is not None:
        raise click.UsageError("--reference and --against exclude each other.")
    found: dict[str, Any] = {"tolerance": tolerance, "vocabulary": family.vocabulary()}
    if reference is not None:
        found["reference"] = read_reference(reference)
    if against is not None:
        found["reference"] = run_transformers(checkpoint, dtype="float64")
    if values is not None:
        found["values"] = family.loader(values).state_dict().__getitem__
    return found

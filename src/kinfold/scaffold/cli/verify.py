"""`scaffold verify`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click


@click.command("verify")
@click.argument("name")
@click.option("--family", metavar="FAMILY", help="The family of a checkpoint that no card names.")
@click.option("--against", type=click.Choice(["transformers"]), help="Compare logits with this implementation.")
@click.option("--reference", metavar="FILE", type=click.Path(path_type=Path),
              help="Compare logits with a recorded file (token_ids, logits).")  # fmt: skip
@click.option("--dtype", type=click.Choice(["float64", "float32", "bfloat16"]), default="float64", show_default=True,
              help="What both sides compute in.")  # fmt: skip
@click.option("--tolerance", default=1e-4, show_default=True, help="How far logits may be apart, of the largest.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome for programs.")
def command(
    name: str,
    family: str | None,
    against: str | None,
    reference: Path | None,
    dtype: str,
    tolerance: float,
    as_json: bool,
) -> None:
    """Prove that a model loads what it should.

    NAME is a card, or the path of a checkpoint that a card names; with --family, of any. Always checked: that every
    tensor of the checkpoint is used once and every parameter filled once (certificate), and that exporting gives
    back every tensor bit for bit (round trip). With --against or --reference: that the logits agree (parity).

    The exit status is 0 only if all of it holds.
    """
    from kinfold.loader import find_card
    from kinfold.scaffold.project import find_project
    from kinfold.scaffold.prove.verify import verify
    from kinfold.scaffold.transaction import Transaction

    project = find_project()
    if project:
        project.activate()
    card = find_card(name, family=family)
    proof = verify(
        card,
        against_transformers=against == "transformers",
        reference_file=reference,
        dtype=dtype,
        tolerance=tolerance,
    )
    data = json.dumps(proof.as_data(), indent=2)
    if project and family is None and card.model_family in project.families():
        transaction = Transaction(project.root)
        transaction.write(project.state(card.model_family) / "proof.json", f"{data}\n".encode())
        transaction.commit()
    click.echo(data if as_json else str(proof))
    sys.exit(0 if proof.holds else 1)

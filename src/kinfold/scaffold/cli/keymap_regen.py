"""`scaffold keymap regen`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kinfold.scaffold.cli.keymap_options import checkpoint_options, evidence_options

if TYPE_CHECKING:
    from kinfold.scaffold.keymap.regen import Regenerated


@click.command("regen")
@checkpoint_options
@click.option("--map", "layout", metavar="NAME", help="The key map; that with the fewest faults if not given.")
@evidence_options
@click.option("--dry-run", is_flag=True, help="Show what would be written, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome for programs.")
def command(
    family_name: str, path: Path, layout: str | None, arch: str | None, dry_run: bool, as_json: bool, **options: Any
) -> None:
    """Bring a key map of a family up to date with a checkpoint.

    Rules that hold stay in loader.py as they are, with their comments; wrong ones are changed, missing ones come, dead
    ones go. The new map has its certificate before a byte is written; where something stays open, nothing is.
    """
    from kinfold.checkpoint import open_checkpoint
    from kinfold.scaffold.cli.keymap_options import evidence
    from kinfold.scaffold.cli.keymap_report import as_data, report_open
    from kinfold.scaffold.keymap.family import open_family
    from kinfold.scaffold.keymap.regen import regenerate
    from kinfold.scaffold.keymap.write import edited_map

    family = open_family(family_name)
    with open_checkpoint(path) as checkpoint:
        native = family.native_side(checkpoint, arch)
        layout = layout or family.nearest_layout(checkpoint, native)
        outcome = regenerate(
            family.key_map(layout),
            checkpoint,
            native,
            elsewhere=family.parameter_names(),
            **evidence(family, path, **options),
        )
        hint = None if outcome.complete else family.size_hint(checkpoint, native)
    transaction = edited_map(family, layout, outcome) if outcome.complete else None
    diff = transaction.diff() if transaction else ""
    if transaction and not dry_run:
        transaction.commit()
    if as_json:
        data = {"map": layout, "differences": outcome.drift.sentences, "doubts": outcome.doubts, "diff": diff}
        click.echo(json.dumps({**as_data(outcome.derived), **data, "complete": outcome.complete}, indent=2))
    else:
        _report(outcome, diff)
        if not outcome.complete:
            report_open(outcome.derived)
            click.echo(f"{hint}\nNothing was written." if hint else "Nothing was written.")
    sys.exit(0 if outcome.complete else 1)


def _report(outcome: Regenerated, diff: str) -> None:
    for sentence in outcome.drift.sentences:
        click.echo(sentence)
    for doubt in outcome.doubts:
        click.echo(f"Doubtful: {doubt}; a reference settles it.")
    click.echo(diff, nl=False)
    if outcome.complete:
        click.echo(f"Certificate: {outcome.certificate}" if diff else f"Nothing to change: {outcome.certificate}")

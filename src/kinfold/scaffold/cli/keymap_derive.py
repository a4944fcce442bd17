"""`scaffold keymap derive`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kinfold.scaffold.cli.keymap_options import checkpoint_options, evidence_options

if TYPE_CHECKING:
    from kinfold.checkpoint import Checkpoint
    from kinfold.scaffold.keymap.family import Family


@click.command("derive")
@checkpoint_options
@click.option("--map", "layout", metavar="NAME", help="What to call the map; the layout, if a known one.")
@evidence_options
@click.option("--dry-run", is_flag=True, help="Show what would be written, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome for programs.")
def command(
    family_name: str, path: Path, layout: str | None, arch: str | None, dry_run: bool, as_json: bool, **options: Any
) -> None:
    """Infer the key map from a checkpoint to a family, and write it into the family's loader.py.

    Every rule comes with its evidence and its confidence. What names and shapes do not settle is settled by
    --reference, --against or --values; otherwise it is listed as open, with all its answers, and nothing is written.
    """
    from kinfold.checkpoint import open_checkpoint
    from kinfold.scaffold.cli.keymap_options import evidence
    from kinfold.scaffold.cli.keymap_report import as_data, report
    from kinfold.scaffold.keymap.derive import derive
    from kinfold.scaffold.keymap.family import open_family
    from kinfold.scaffold.keymap.write import added_map

    family = open_family(family_name)
    with open_checkpoint(path) as checkpoint:
        native = family.native_side(checkpoint, arch)
        derived = derive(checkpoint, native, **evidence(family, path, **options))
        known = family.explains(checkpoint, native) if layout is None else None
        layout = layout or _layout(family, checkpoint)
        hint = None if derived.complete else family.size_hint(checkpoint, native)
    writes = derived.complete and known is None
    transaction = added_map(family, layout, [item.rule for item in derived.rules]) if writes else None
    diff = transaction.diff() if transaction and dry_run else ""
    if transaction and not dry_run:
        transaction.commit()
    if as_json:
        click.echo(
            json.dumps({**as_data(derived), "map": layout, "explained_by": known, "hint": hint, "diff": diff}, indent=2)
        )
    else:
        report(derived)
        click.echo(diff or (f"{hint}\n" if hint else ""), nl=False)
        if known is not None:
            click.echo(f"{family.name} loads this checkpoint already, by its key map {known}; nothing was written.")
        elif transaction and not dry_run:
            click.echo(f"The key map {layout} is part of {family.path}.")
            click.echo(f"Next: scaffold verify {path} --family {family.name}")
    sys.exit(0 if derived.complete else 1)


def _layout(family: Family, checkpoint: Checkpoint) -> str:
    """What to call a new map: by the kind of file where that says it, else by the checkpoint's own name."""
    from kinfold.scaffold.keymap.layouts import CONTAINERS

    usual = CONTAINERS.get(checkpoint.layout)
    if usual is not None and usual not in family.key_maps:
        return usual
    words = re.findall(r"[a-z0-9]+", checkpoint.path.stem.lower())
    name = "_".join(words) if words and not words[0][0].isdigit() else "_".join(("map", *words))
    return name if name not in family.key_maps else f"{name}_2"

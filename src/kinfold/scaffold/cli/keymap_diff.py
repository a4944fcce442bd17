"""`scaffold keymap diff`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from kinfold.scaffold.cli.keymap_options import checkpoint_options


@click.command("diff")
@checkpoint_options
@click.option("--map", "layout", metavar="NAME", help="The key map; that with the fewest faults if not given.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome for programs.")
def command(family_name: str, path: Path, layout: str | None, arch: str | None, as_json: bool) -> None:
    """Say how a checkpoint differs from what a key map of a family takes.

    The exit status is 0 if the map explains the checkpoint in full, else 1.
    """
    from kinfold.checkpoint import open_checkpoint
    from kinfold.keymap import certify
    from kinfold.scaffold.keymap.diff import find_drift
    from kinfold.scaffold.keymap.family import open_family

    family = open_family(family_name)
    with open_checkpoint(path) as checkpoint:
        native = family.native_side(checkpoint, arch)
        layout = layout or family.nearest_layout(checkpoint, native)
        bound = family.key_map(layout).bind(native.config)
        drift = find_drift(bound, checkpoint.manifest, native.manifest)
        certificate = certify(bound, checkpoint.manifest, native.manifest)
        hint = family.size_hint(checkpoint, native)
    sentences = drift.sentences or list(certificate.faults)
    if as_json:
        click.echo(json.dumps({"map": layout, "explained": certificate.holds, "differences": sentences}, indent=2))
    elif certificate.holds:
        click.echo(f"The key map {layout} explains it: {certificate}")
    else:
        click.echo(f"Against the key map {layout}:")
        for sentence in sentences:
            click.echo(f"  {sentence}")
        update = f"To bring it up to date: scaffold keymap regen {family_name} --checkpoint {path} --map {layout}"
        click.echo(hint or update)
    sys.exit(0 if certificate.holds else 1)

"""`scaffold keymap`: the commands about key maps."""

from __future__ import annotations

import click

from kinfold.scaffold.cli.lazy import LazyGroup

COMMANDS = {
    "derive": "Infer the key map from a checkpoint to a family.",
    "diff": "Say how a checkpoint differs from what a key map takes.",
    "regen": "Bring a key map up to date with a checkpoint.",
}
"""Every command, and the first line of its help."""


@click.group("keymap", cls=LazyGroup, table=COMMANDS, prefix="keymap_")
def command() -> None:
    """Derive, compare and regenerate key maps.

    A key map says which tensor of a checkpoint becomes which parameter of a family; it stands in loader.py.
    """

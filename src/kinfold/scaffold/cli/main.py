"""The command `scaffold`. A command's module is imported when the command is called, and no sooner."""

from __future__ import annotations

import sys

import click

from kinfold import __version__
from kinfold.errors import KinfoldError
from kinfold.scaffold.cli.lazy import LazyGroup

COMMANDS = {
    "init": "Make a repository of model families.",
    "new-family": "Add a model family to the project.",
    "verify": "Prove that a model loads what it should.",
    "convert": "Write a checkpoint in another layout.",
    "diff": "Say how two architectures differ.",
    "keymap": "Derive, compare and regenerate key maps.",
    "generate": "Continue a text with a model, or have an encoder and decoder answer to it.",
    "plan": "Say how much memory ranks need, and which layout fits.",
    "train": "Train a model by a recipe, and write a card for it.",
    "cards": "List the cards of models.",
    "show": "Show what a card says, and what model it makes.",
    "schema": "Print the JSON schema of specs, for editors.",
}
"""Every command, and the first line of its help."""


@click.group(cls=LazyGroup, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="scaffold")
def scaffold() -> None:
    """Bring model families into a PyTorch code base, from a spec or from a checkpoint."""


def main() -> None:
    """Run `scaffold`; an error of Kinfold's is a message and exit status 1."""
    try:
        scaffold(prog_name="scaffold")
    except KinfoldError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)

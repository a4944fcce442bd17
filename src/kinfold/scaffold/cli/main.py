"""The command `scaffold`. A command's module is imported when the command is called, and no sooner."""

from __future__ import annotations

import sys
from importlib import import_module

import click

from kinfold import __version__
from kinfold.errors import KinfoldError

COMMANDS = {
    "init": "Make a repository of model families.",
    "new-family": "Add a model family to the project.",
    "verify": "Prove that a model loads what it should.",
    "generate": "Continue a text with a model.",
    "schema": "Print the JSON schema of specs, for editors.",
}
"""Every command, and the first line of its help."""


class _Commands(click.Group):
    """Commands that are known by name before they are imported."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return import_module(f"kinfold.scaffold.cli.{cmd_name.replace('-', '_')}").command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
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

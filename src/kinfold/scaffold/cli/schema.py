"""`scaffold schema`."""

from __future__ import annotations

import json

import click


@click.command("schema")
def command() -> None:
    """Print the JSON schema of specs, for editors.

    In a spec, the line `# yaml-language-server: $schema=FILE` makes editors check and complete it.
    """
    from kinfold.scaffold.spec.schema import json_schema

    click.echo(json.dumps(json_schema(), indent=2))

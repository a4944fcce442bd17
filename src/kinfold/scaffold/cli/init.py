"""`scaffold init`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("init")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Show what would be written, and write nothing.")
def command(folder: Path, dry_run: bool) -> None:
    """Make a repository of model families.

    FOLDER is made; its name becomes that of the package in it.
    """
    from kinfold.scaffold.project import init_project

    transaction = init_project(folder)
    if dry_run:
        click.echo(transaction.diff(), nl=False)
        return
    transaction.commit()
    click.echo(f"Made {folder}: a package for your model families.")
    click.echo(f"Next: cd {folder} && scaffold new-family mymodel --from CHECKPOINT")

"""`scaffold new-family`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from kinfold.scaffold.new_family import NewFamily
    from kinfold.scaffold.project import Project
    from kinfold.scaffold.spec.schema import Spec


@click.command("new-family")
@click.argument("name")
@click.option("--spec", "spec_file", type=click.Path(path_type=Path), help="Make it from a spec in YAML.")
@click.option("--like", metavar="FAMILY", help="Make it from the spec of another family.")
@click.option(
    "--from",
    "checkpoint_path",
    metavar="CHECKPOINT",
    type=click.Path(path_type=Path),
    help="Make it from a folder with config.json and safetensors, or a GGUF file.",
)
@click.option(
    "--reference",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Settle what is open by recorded logits; reference.safetensors in the folder if there is one.",
)
@click.option(
    "--against",
    type=click.Choice(["transformers", "nothing"]),
    help="Settle what is open by this implementation; by transformers if it is installed.",
)
@click.option("--allow-open", is_flag=True,
              help="Go on where something is not understood, or no reference agrees, and say so.")  # fmt: skip
@click.option("--interactive", is_flag=True, help="Ask for each size of the default arch.")
@click.option("--dry-run", is_flag=True, help="Show what would be written, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome for programs.")
def command(
    name: str,
    spec_file: Path | None,
    like: str | None,
    checkpoint_path: Path | None,
    reference: Path | None,
    against: str | None,
    allow_open: bool,
    interactive: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Add a model family to the project.

    The project is the one that the current folder is in. Writes NAME/ with archs.py, factory.py, model.py and
    loader.py, a test and a card, and wires it into the registry: all of it or, on any error, nothing.
    """
    from kinfold.scaffold.new_family import new_family, spec_of_family
    from kinfold.scaffold.project import require_project
    from kinfold.scaffold.spec.schema import Spec, read_spec

    if sum(source is not None for source in (spec_file, like, checkpoint_path)) > 1:
        raise click.UsageError("--spec, --like and --from exclude each other.")
    if reference is not None and against is not None:
        raise click.UsageError("--reference and --against exclude each other.")
    if checkpoint_path is None and (reference is not None or against is not None or allow_open):
        raise click.UsageError("--reference, --against and --allow-open are about a checkpoint: --from is missing.")
    project = require_project()
    project.activate()
    if checkpoint_path is not None:
        outcome = _from_checkpoint(name, project, checkpoint_path, reference, against, allow_open=allow_open)
    else:
        spec = read_spec(spec_file) if spec_file else spec_of_family(like, project) if like else Spec()
        outcome = new_family(name, project, _ask(spec) if interactive else spec)
    diff = outcome.transaction.diff() if dry_run else ""
    if not dry_run:
        outcome.transaction.commit()
    if as_json:
        click.echo(json.dumps(_result(outcome, diff), indent=2))
    elif dry_run:
        click.echo(diff, nl=False)
    else:
        _report(outcome)


def _from_checkpoint(
    name: str, project: Project, path: Path, reference: Path | None, against: str | None, *, allow_open: bool
) -> NewFamily:
    from kinfold.checkpoint import open_checkpoint
    from kinfold.scaffold.naming import check_name
    from kinfold.scaffold.new_family import new_family
    from kinfold.scaffold.project import STATE_FOLDER
    from kinfold.scaffold.reading.additions import read_additions
    from kinfold.scaffold.reading.read import read_checkpoint
    from kinfold.scaffold.reading.settle import settled

    check_name(name, what="family", taken=project.families())  # before anything takes its time
    with open_checkpoint(path) as checkpoint:
        additions = read_additions(project.root / STATE_FOLDER)
        reading = read_checkpoint(checkpoint, additions=additions, allow_open=allow_open)
        reading = settled(reading, checkpoint, reference=reference, against=against, allow_open=allow_open)
        return new_family(name, project, reading.spec, checkpoint=checkpoint, reading=reading)


def _ask(spec: Spec) -> Spec:
    """The spec with the sizes of its default arch as the user gives them."""
    import msgspec

    from kinfold.scaffold.spec.sizes import Arch

    name, sizes = next(iter(spec.sizes().items()))
    answers = {}
    for size in dict.fromkeys([*spec.field_names(), "tied_embeddings"]):
        value = getattr(sizes, size)
        if isinstance(value, bool):
            answers[size] = click.confirm(size, default=value)
        elif isinstance(value, int | float):
            answers[size] = click.prompt(size, default=value, type=type(value))
    return msgspec.structs.replace(spec, archs={**spec.archs, name: Arch(**answers)})


def _result(outcome: NewFamily, diff: str) -> dict[str, Any]:
    return {
        "family": outcome.name,
        "arch": outcome.arch,
        "files": dict(outcome.transaction.changes),
        "facts": [{"name": f.name, "value": str(f.value), "evidence": f.evidence} for f in outcome.facts],
        "open": list(outcome.leftovers),
        "search": list(outcome.search),
        "certificates": {layout: str(certificate) for layout, certificate in outcome.certificates.items()},
        "diff": diff,
    }


def _report(outcome: NewFamily) -> None:
    for fact in outcome.facts:
        if not fact.assumed:
            click.echo(str(fact))
    if any(fact.assumed for fact in outcome.facts):
        click.echo("Neither shapes nor config say the following; `scaffold verify` with a reference settles it:")
    for fact in outcome.facts:
        if fact.assumed:
            click.echo(str(fact))
    for line in outcome.leftovers:
        click.echo(f"Not understood: {line}")
    for line in outcome.search:
        click.echo(line)
    for layout, certificate in outcome.certificates.items():
        click.echo(f"Key map {layout}: {certificate}")
    for path, kind in outcome.transaction.changes.items():
        if not path.startswith(".kinfold/"):
            click.echo(f"  {kind} {path}")
    following = f"scaffold verify {outcome.name}" if outcome.facts else "pytest"
    click.echo(f"{outcome.name} is part of the project. Next: {following}")

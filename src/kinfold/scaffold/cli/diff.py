"""`scaffold diff`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from kinfold.assets import AssetCard
    from kinfold.scaffold.project import Project
    from kinfold.scaffold.spec.compare import Side
    from kinfold.scaffold.spec.schema import Spec


@click.command("diff")
@click.argument("first")
@click.argument("second")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome for programs.")
def command(first: str, second: str, as_json: bool) -> None:
    """Say how two architectures differ.

    FIRST and SECOND are families (FAMILY:ARCH for another arch than the default), cards, files of specs, or
    checkpoints. `+` is what only the second has, `-` what only the first has, `~` what both have otherwise.
    """
    from kinfold.scaffold.project import find_project
    from kinfold.scaffold.spec.compare import differences

    project = find_project()
    if project:
        project.activate()
    sides = [_side(name, project) for name in (first, second)]
    found = differences(*sides)
    if as_json:
        rows = [{"kind": row.kind, "what": row.what, "text": row.text} for row in found]
        click.echo(json.dumps({"first": sides[0].name, "second": sides[1].name, "differences": rows}, indent=2))
        return
    click.echo(f"{sides[0].name} -> {sides[1].name}")
    click.echo("\n".join(map(str, found)) or "No difference.")


def _side(name: str, project: Project | None) -> Side:
    """What a word of the command line stands for."""
    from kinfold.assets import is_card_path
    from kinfold.loader import find_card
    from kinfold.registry import families
    from kinfold.scaffold.new_family import spec_of_family
    from kinfold.scaffold.spec.schema import read_spec

    family, _, arch = name.partition(":")
    path = Path(name)
    if family in families.modules:
        return _arch_of(family, spec_of_family(family, project), arch or None)
    if is_card_path(path) and path.is_file() and not _is_card(path):
        return _arch_of(name, read_spec(path), None)
    if path.exists() and not is_card_path(path):
        return _arch_of(name, _spec_of_checkpoint(path, project), None)
    return _with_values(find_card(name), project)


def _spec_of_checkpoint(path: Path, project: Project | None) -> Spec:
    from kinfold.checkpoint import open_checkpoint
    from kinfold.scaffold.project import STATE_FOLDER
    from kinfold.scaffold.reading.additions import read_additions
    from kinfold.scaffold.reading.read import read_checkpoint

    additions = read_additions(project.root / STATE_FOLDER if project else None)
    with open_checkpoint(path) as checkpoint:
        return read_checkpoint(checkpoint, additions=additions).spec


def _arch_of(name: str, spec: Spec, arch: str | None) -> Side:
    from kinfold.errors import RegistryError, nearest
    from kinfold.scaffold.spec.compare import Side

    sizes = spec.sizes()
    arch = arch or next(iter(sizes))
    if arch not in sizes:
        raise RegistryError(f"{name} has no arch {arch!r}.", hint=nearest(arch, sizes))
    return Side(f"{name}:{arch}", spec, sizes[arch])


def _with_values(card: AssetCard, project: Project | None) -> Side:
    """The architecture of a card: that of its arch, with its own values over it."""
    import msgspec

    from kinfold.errors import CardError
    from kinfold.scaffold.new_family import spec_of_family
    from kinfold.scaffold.spec.compare import Side
    from kinfold.scaffold.spec.sizes import Sizes

    side = _arch_of(card.model_family, spec_of_family(card.model_family, project), card.model_arch)
    own = {key: value for key, value in card.model_config.items() if key in Sizes.__struct_fields__}
    try:
        sizes = msgspec.convert({**msgspec.to_builtins(side.sizes), **own}, Sizes)
    except msgspec.ValidationError as error:
        raise CardError(f"{card.source}: `model_config`: {error}") from error
    return Side(card.name, side.spec, sizes)


def _is_card(path: Path) -> bool:
    """Whether a YAML file is a card rather than a spec: it says what it is of."""
    import yaml

    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False  # whoever reads it as a spec says what is wrong
    return isinstance(tree, dict) and not {"model_family", "base"}.isdisjoint(tree)

"""`scaffold new-family`: from a spec to a rendered, certified family in a transaction."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from kinfold.errors import ProjectError, nearest
from kinfold.registry import families
from kinfold.scaffold.importing import imported_family
from kinfold.scaffold.naming import check_name
from kinfold.scaffold.project import STATE_FOLDER, Project
from kinfold.scaffold.reading.facts import Fact
from kinfold.scaffold.render.context import family_context
from kinfold.scaffold.render.files import Files, format_sources, render
from kinfold.scaffold.spec.schema import Spec, check_spec, dump_spec, parse_spec
from kinfold.scaffold.transaction import Transaction
from kinfold.scaffold.wire import add_family

if TYPE_CHECKING:
    from kinfold.checkpoint import Checkpoint
    from kinfold.scaffold.reading.read import Reading


@dataclass(frozen=True, slots=True)
class NewFamily:
    """A family that is ready to be committed.

    Attributes:
        name: Its name.
        arch: The name of its default arch.
        transaction: Everything that is to be written.
        facts: What was read out of a checkpoint; empty where there was none.
        leftovers: What of it was not understood.
        search: What a reference said.
        certificates: For each layout, the certificate of its key map.
    """

    name: str
    arch: str
    transaction: Transaction
    certificates: dict[str, Any]
    facts: tuple[Fact, ...] = ()
    leftovers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()


def new_family(
    name: str, project: Project, spec: Spec, *, checkpoint: Checkpoint | None = None, reading: Reading | None = None
) -> NewFamily:
    """Render and certify a family; nothing is written before the transaction is committed.

    Args:
        name: The family's name.
        project: The project it becomes part of.
        spec: Its spec.
        checkpoint: The checkpoint its card shall name, whose tensors its key map has to explain in full.
        reading: What the spec was read from.

    Raises:
        ProjectError: The name cannot be used.
        ConfigError: The spec's numbers do not fit.
        CertificateError: The key map does not explain the checkpoint, or the model, in full.
    """
    check_name(name, what="family", taken=families.modules)
    check_spec(spec, place=f"The spec of {name}")
    files = render_family(name, project, spec, checkpoint=checkpoint)
    _refuse_to_overwrite(name, project, files)
    certificates = certify_family(name, project, files, checkpoint)

    transaction = Transaction(project.root)
    for path, data in {**files, **state_files(name, project, spec, files)}.items():
        transaction.write(path, data)
    table, module = (project.root / project.registry).read_bytes(), f"{project.package}.{name}"
    transaction.write(project.registry, add_family(table, name, module, place=str(project.registry)))
    family = NewFamily(name, next(iter(spec.archs)), transaction, certificates)
    if reading is None:
        return family
    return replace(family, facts=tuple(reading.facts.values()), leftovers=reading.leftovers, search=reading.search)


def render_family(name: str, project: Project, spec: Spec, *, checkpoint: Checkpoint | None = None) -> Files:
    """The files of a family, by path relative to the project's root; the same input gives the same bytes."""
    data = {
        **family_context(name, project.package, spec),
        "package_path": project.package_path.as_posix(),
        "tests_path": project.tests,
        "checkpoint": _checkpoint_uri(checkpoint.path, project) if checkpoint else "",
    }
    files = {**render("family", data), **render(spec.model, data)}
    return format_sources(files, project.root, project.package)


def state_files(name: str, project: Project, spec: Spec, files: Files) -> Files:
    """What `.kinfold/` keeps of a family: its spec, and its sources as they were rendered."""
    pristine = {project.state(name) / "pristine" / path: data for path, data in files.items() if path.suffix == ".py"}
    return {project.state(name) / "spec.yaml": dump_spec(spec).encode(), **pristine}


def certify_family(name: str, project: Project, files: Files, checkpoint: Checkpoint | None) -> dict[str, Any]:
    """Check every key map of a rendered family against the model it builds, from names and shapes alone.

    Without a checkpoint each map has to explain the layout that it would itself export to.
    """
    with imported_family(name, project, files) as loader:
        from kinfold.keymap import certify
        from kinfold.loader import model_manifest

        config = loader.config_loader.archs.get()
        target = model_manifest(loader.factory(config, device="meta"))
        if checkpoint is not None:
            what = str(checkpoint.path)
            conversion = loader.checkpoint_converter.choose(checkpoint.manifest, target, config, what=what)
            return {conversion.layout: conversion.certificate}
        certificates = {}
        for layout, key_map in loader.checkpoint_converter.key_maps.items():
            bound = key_map.bind(config)
            certificates[layout] = certify(bound, bound.source_manifest(target), target)
            certificates[layout].raise_for_faults(f"The key map {layout!r} of {name} does not hold:")
        return certificates


def spec_of_family(family: str, project: Project | None) -> Spec:
    """The spec that a family, of the project if there is one or of an installed package, was made from."""
    module = families.modules.get(family)
    if module is None:
        raise ProjectError(f"There is no family {family!r}.", hint=nearest(family, families.modules))
    from importlib.util import find_spec

    found = find_spec(module.partition(".")[0])
    packages = [Path(location) for location in (found.submodule_search_locations or ())] if found else []
    own = [project.root] if project else []
    folders = [*own, *(place for package in packages for place in (package, package.parent))]
    for folder in folders:
        path = folder / STATE_FOLDER / family / "spec.yaml"
        if path.is_file():
            return parse_spec(path.read_text(encoding="utf-8"), place=str(path))
    raise ProjectError(f"No spec is kept for the family {family!r}; looked under {STATE_FOLDER}/ of its package.")


def _refuse_to_overwrite(name: str, project: Project, files: Files) -> None:
    existing = [str(path) for path in files if (project.root / path).exists()]
    folder = project.package_path / name
    if (project.root / folder).exists() and not existing:
        existing = [str(folder)]
    if existing:
        raise ProjectError(
            f"The family {name!r} would overwrite what is there:",
            faults=existing,
            hint="Move it out of the way, or choose another name.",
        )


def _checkpoint_uri(checkpoint: Path, project: Project) -> str:
    """How the card says where the checkpoint lies: relative inside the project, absolute outside."""
    path = checkpoint.resolve()
    if path.is_relative_to(project.root):
        return f"file:{quote(os.path.relpath(path, project.root / project.cards))}"
    return path.as_uri()

"""`scaffold plan`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from kinfold.loader import StandardModelLoader
    from kinfold.scaffold.project import Project

_SIZE = click.IntRange(min=1)


@click.command("plan")
@click.argument("name", metavar="FAMILY")
@click.option("--arch", help="One of its archs; the first one if not said.")
@click.option("--tp", type=_SIZE, help="Ranks that share each tensor.")
@click.option("--fsdp", type=_SIZE, help="Ranks that share the data, and the weights of each layer.")
@click.option("--pp", type=_SIZE, help="Stages, which share the layers.")
@click.option("--device-memory", metavar="SIZE", help="Of one device, such as 80GB; to search, and to see what fits.")
@click.option("--batch-size", type=_SIZE, default=1, show_default=True,
              help="Sequences that ranks with the same data compute at once.")  # fmt: skip
@click.option("--microbatches", type=_SIZE, help="How many --pp cuts a batch into; one a sequence if not said.")
@click.option("--seq-len", type=_SIZE, help="Tokens of a sequence; the longest it is made for if not said.")
@click.option("--dtype", type=click.Choice(["bfloat16", "float16", "float32"]), default="bfloat16", show_default=True,
              help="What is computed in. Weights that are trained are kept in float32.")  # fmt: skip
@click.option("--optimizer", type=click.Choice(["adamw", "sgd", "none"]), default="adamw", show_default=True,
              help="none: not training, but decoding with cached keys and values.")  # fmt: skip
@click.option("--sequence-parallel", is_flag=True, help="Spread vectors between blocks over --tp, too.")
@click.option(
    "--activation-checkpointing", is_flag=True, help="Keep what layers are given, and compute the rest again."
)
@click.option("--html", "page", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False),
              help="Write the picture of all ranks into this file, too.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the outcome for programs.")
def command(
    name: str,
    arch: str | None,
    tp: int | None,
    fsdp: int | None,
    pp: int | None,
    device_memory: str | None,
    batch_size: int,
    microbatches: int | None,
    seq_len: int | None,
    dtype: str,
    optimizer: Any,
    sequence_parallel: bool,
    activation_checkpointing: bool,
    page: Path | None,
    as_json: bool,
) -> None:
    """Say how much memory ranks need, and which layout fits.

    FAMILY is a family, the path of one in the project, or a card. With --tp, --fsdp or --pp it is what ranks need that
    are laid out so; without them, the smallest layouts that fit --device-memory. Nothing is loaded or allocated, and
    one process stands for all ranks.

    The exit status is 1 if what was asked for does not divide, or does not fit.
    """
    import torch

    from kinfold.parallel.estimate import Blueprint, Estimator, Layout, Workload, smallest_layouts
    from kinfold.scaffold.cli.plan_page import render_page
    from kinfold.scaffold.cli.plan_report import Plan, show
    from kinfold.scaffold.project import find_project

    if project := find_project():
        project.activate()
    memory = None if device_memory is None else _bytes(device_memory)
    family, arch, loader, config = _model(name, arch, project)
    work = Workload(
        seq_len=_seq_len(config, seq_len),
        batch_size=batch_size,
        dtype=getattr(torch, dtype),
        optimizer=optimizer,
        sequence_parallel=sequence_parallel,
        activation_checkpointing=activation_checkpointing,
        microbatches=microbatches,
    )
    estimator = Estimator(Blueprint(loader.factory, config, loader.sharder), work)
    search = None if memory is None or any((tp, fsdp, pp)) else smallest_layouts(estimator, memory)
    layout = search.fitting[0].layout if search else Layout(tp=tp or 1, dp=fsdp or 1, pp=pp or 1)
    plan = Plan(f"{family} {arch}", estimator, layout, memory, search)
    if as_json:
        click.echo(json.dumps(plan.as_data(), indent=2))
    else:
        show(plan)
    if page is not None:
        page.write_text(render_page(plan), encoding="utf-8")
    sys.exit(0 if plan.fits else 1)


def _model(name: str, arch: str | None, project: Project | None) -> tuple[str, str, StandardModelLoader, Any]:
    """The family, the arch, the loader and the config that the words of the command line stand for."""
    from kinfold import load_model
    from kinfold.loader import find_card
    from kinfold.registry import families

    family = _family_at(Path(name), project) or name
    if family in families.modules:
        loader = load_model.get(family)
        archs = loader.config_loader.archs
        return family, arch or archs.names()[0], loader, archs.get(arch)
    card = find_card(name)
    if arch is not None:
        raise click.BadParameter(f"the card {card.name} says which arch it is of", param_hint="--arch")
    loader = load_model.get(card.model_family)
    return card.model_family, card.name, loader, loader.config_loader(card)


def _family_at(path: Path, project: Project | None) -> str | None:
    """The family of the project whose folder that is."""
    if project is None or not path.is_dir():
        return None
    for family, module in project.families().items():
        if path.resolve() == project.root / project.source / Path(*module.split(".")):
            return family
    return None


def _bytes(size: str) -> int:
    from kinfold.checkpoint.shards import parse_size
    from kinfold.errors import CheckpointError

    try:
        return parse_size(size)
    except CheckpointError as error:
        raise click.BadParameter(f"{size!r} is no size, such as 80GB or 80GiB", param_hint="--device-memory") from error


def _seq_len(config: Any, asked: int | None) -> int:
    found = asked or getattr(config, "max_seq_len", None)
    if found is None:
        raise click.UsageError("How long a sequence is its config does not say. Say `--seq-len`.")
    return found

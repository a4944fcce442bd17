"""`scaffold convert`."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import click


@click.command("convert")
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST", type=click.Path(path_type=Path))
@click.option("--family", help="The family of a checkpoint that no card names.")
@click.option("--arch", help="Its arch; if not said, one that fits.")
@click.option("--to", default="native", show_default=True, metavar="LAYOUT",
              help="native, or a layout that the family has a key map for: hf, gguf-names, ...")  # fmt: skip
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16", "float64"]),
              help="Cast floating tensors; otherwise they stay as they are.")  # fmt: skip
@click.option("--max-shard-size", metavar="SIZE", help="How large a file may be.  [default: 5GB; 100MB for dcp]")
@click.option("--format", "format_", type=click.Choice(["safetensors", "dcp"]), default="safetensors",
              show_default=True, help="dcp: torch.distributed.checkpoint.")  # fmt: skip
@click.option("--no-config", is_flag=True, help="Write no config.json.")
@click.option("--restart", is_flag=True, help="Throw away what another, unfinished conversion to DST has left.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome for programs.")
def command(
    source: str,
    destination: Path,
    family: str | None,
    arch: str | None,
    to: str,
    dtype: str | None,
    max_shard_size: str | None,
    format_: str,
    no_config: bool,
    restart: bool,
    as_json: bool,
) -> None:
    """Write a checkpoint in another layout.

    SRC is a card, or the path of a checkpoint: safetensors, torch's pickles, GGUF or torch.distributed. DST is a
    folder, which is there complete or not at all. After an interruption, the same command goes on.

    Several processes write together: torchrun --nproc-per-node 4 --no-python scaffold convert SRC DST
    """
    from kinfold.conversion import convert_checkpoint
    from kinfold.parallel import setup_gangs
    from kinfold.scaffold.cli.progress import bytes_bar
    from kinfold.scaffold.project import find_project

    if project := find_project():
        project.activate()
    gangs = setup_gangs(device="cpu")
    is_first = gangs["world"].rank == 0
    with gangs, bytes_bar(f"Writing {destination.name}") if is_first else nullcontext() as progress:
        done = convert_checkpoint(
            source,
            destination,
            family=family,
            arch=arch,
            to=to,
            dtype=dtype,
            max_shard_size=max_shard_size,
            format="dcp" if format_ == "dcp" else "safetensors",
            config=not no_config,
            restart=restart,
            gangs=gangs,
            progress=progress,
        )
    if not is_first:
        return
    if as_json:
        outcome = {
            "path": str(done.path), "family": done.family, "arch": done.arch, "from": done.source_layout,
            "to": done.layout, "files": list(done.files), "tensors": done.tensors, "bytes": done.nbytes,
        }  # fmt: skip
        click.echo(json.dumps(outcome, indent=2))
    else:
        click.echo(
            f"{done.path}: {done.tensors} tensors, {done.nbytes:,} bytes, from {done.source_layout} to {done.layout}."
        )

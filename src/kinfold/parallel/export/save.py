"""Writing a model that is spread over ranks as one checkpoint, without any rank having all of it.

The files follow from names, shapes and dtypes alone, and each is written by one rank. Step by step of the key map, the
ranks put together the tensors that it takes; those that write what it gives keep them that long, and the others let go
of them at once.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import torch
from torch import nn

from kinfold.checkpoint.manifest import Manifest, TensorInfo
from kinfold.checkpoint.names import INDEX
from kinfold.checkpoint.shards import Shard, index_of, plan_shards
from kinfold.checkpoint.write import write_synced
from kinfold.conversion.companions import CONFIG, companions, config_file
from kinfold.durable import put_in_place
from kinfold.errors import CheckpointError
from kinfold.filling import Progress
from kinfold.keymap import Plan
from kinfold.loader import PreparedModel, load_model, model_manifest
from kinfold.parallel.export.assembly import Assembly
from kinfold.parallel.export.files import write_files
from kinfold.parallel.gangs import Gang
from kinfold.parallel.together import together

MAX_SHARD_SIZE = "5GB"


def save_sharded_model(
    model: nn.Module,
    folder: str | Path,
    *,
    start: PreparedModel,
    layout: str = "hf",
    dtype: torch.dtype | None = None,
    max_shard_size: int | str = MAX_SHARD_SIZE,
    files: Mapping[str, bytes] | None = None,
    gangs: Mapping[str, Gang] | None = None,
    progress: Progress | None = None,
) -> None:
    """Write a model as a checkpoint of safetensors files; every rank calls it, and all see the same folder.

    The folder is there complete or not at all. A rank has its part of the model and what one step of the key map takes
    and gives, no more.

    Args:
        model: The model, or this rank's stage of it; its parameters are DTensors, or the same on every rank.
        folder: The folder to make.
        start: What it was loaded as (`StandardModelLoader.prepare`): its card, its config, and the whole model on the
            meta device.
        layout: One of the family's key maps, or "native".
        dtype: What floating tensors are cast to; None leaves them.
        max_shard_size: How many bytes of tensors a file may have; each file is written by one rank.
        files: Other files, by name, that are written beside them; None for those of the checkpoint that it was loaded
            from. config.json is made anew.
        gangs: The ranks, as `setup_gangs` gives them; None for this process alone.
        progress: Called after each step with the bytes of tensors that all ranks have written, and of all tensors.

    Raises:
        CheckpointError: The folder exists, or cannot be written.
        KeyMapError: The family has no such layout, or its key map does not explain the model in full.
        TrainingError: There are weights that are no numbers, or that the dtype does not hold.
        ParallelError: What the ranks have is not the model, or another rank could not do its part.
    """
    folder, start = Path(folder).absolute(), _with_arch(start)
    assembly = Assembly(model.state_dict(), gangs)
    with _made_whole(folder, gangs, is_first=assembly.rank == 0) as staged:
        with together(gangs, f"Planning {folder}"):
            plan, manifest = _exporting(start, assembly.manifest(model_manifest(start.model)), layout, dtype)
            shards = plan_shards(manifest, max_shard_size)
            config = config_file(start, manifest, to=layout, cast=_name(dtype))
            others = {**(companions(start.checkpoint) if files is None else files), CONFIG: config}
        with together(gangs, f"Writing {folder}"):
            write_files(staged, shards, plan, assembly, progress=progress)
        with together(gangs, f"Completing {folder}"):
            if assembly.rank == 0:
                _complete(staged, shards, others)


@contextmanager
def _made_whole(folder: Path, gangs: Mapping[str, Gang] | None, *, is_first: bool) -> Iterator[Path]:
    """A folder that all ranks fill, which gets its name when the block ends without an error on any."""
    staged = folder.with_name(f".{folder.name}.partial")
    with together(gangs, f"Beginning {folder}"):
        if is_first:
            if os.path.lexists(folder):
                raise CheckpointError(f"{folder} exists.", hint="Name a folder that does not, or move it away.")
            shutil.rmtree(staged, ignore_errors=True)
            staged.mkdir(parents=True)
    try:
        yield staged
        with together(gangs, f"Completing {folder}"):
            if is_first:
                put_in_place(staged, folder)
    except BaseException as error:
        if is_first:
            shutil.rmtree(staged, ignore_errors=True)
        if isinstance(error, OSError):
            raise CheckpointError(
                f"{folder} could not be written: {error}", hint="All ranks have to see the same folder."
            ) from error
        raise


def _with_arch(start: PreparedModel) -> PreparedModel:
    """The same with the arch of its card said, so that what is written does not change with the family's default."""
    archs = load_model.get(start.card.model_family).config_loader.archs
    card = msgspec.structs.replace(start.card, model_arch=start.card.model_arch or archs.names()[0])
    return dataclasses.replace(start, card=card)


def _exporting(start: PreparedModel, native: Manifest, layout: str, dtype: torch.dtype | None) -> tuple[Plan, Manifest]:
    """How tensors are exported, and what comes out of it once it is cast."""
    converter = load_model.get(start.card.model_family).checkpoint_converter
    plan, manifest = converter.exporting(native, start.config, layout=layout)
    cast = _name(dtype)
    kept = {n: i.dtype if cast is None or "float" not in i.dtype else cast for n, i in manifest.items()}
    return plan, {name: TensorInfo(info.shape, kept[name], kept[name]) for name, info in manifest.items()}


def _name(dtype: torch.dtype | None) -> str | None:
    return None if dtype is None else str(dtype).removeprefix("torch.")


def _complete(folder: Path, shards: Sequence[Shard], others: Mapping[str, bytes]) -> None:
    """Write the files beside those of the ranks, once these are seen to be there."""
    if missing := [shard.file for shard in shards if not shard.is_in(folder)]:
        raise CheckpointError(
            f"What other ranks have written is not to be seen in {folder}:",
            faults=missing,
            hint="All ranks have to see the same folder.",
        )
    for name, data in others.items():
        write_synced(folder / name, data)
    if len(shards) > 1:
        write_synced(folder / INDEX, index_of(shards))

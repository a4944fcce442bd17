"""What ranks do in the tests of writing what they have; each function is called on every rank."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import fused
import torch
from ranks_loading import Case, loader_of, most_private_memory
from torch import nn

from kinfold import load_model
from kinfold.errors import KinfoldError
from kinfold.parallel import Gangs, setup_gangs, shard_data_parallel
from kinfold.parallel.export import files, save_sharded_model
from kinfold.parallel.stages import keep_stage

MAX_SHARD_SIZE = 20_000


def use_key_map_of(config: Any) -> None:
    """Give Llama the key map of `fused`, too."""
    converter = load_model.get("llama").checkpoint_converter
    converter.key_maps = {**converter.key_maps, "fused": fused.key_map(config)}


def stage_of(case: Case, gangs: Gangs, **options: Any) -> nn.Module:
    """What a rank has of the model of a case: spread, and a stage of it."""

    def before_loading(model: nn.Module) -> None:
        keep_stage(model, gangs["pp"])
        shard_data_parallel(model, gangs["dp"])

    return loader_of(case)(case[0], gangs=gangs, before_loading=before_loading, **options)


def save(case: Case, folder: Path, gangs: Gangs | None, model: nn.Module, **options: Any) -> None:
    """Write a model of a case."""
    with (start := loader_of(case).prepare(case[0])).checkpoint:
        save_sharded_model(model, folder, start=start, gangs=gangs, max_shard_size=MAX_SHARD_SIZE, **options)


def saved(
    cases: Mapping[str, Case], layouts: Mapping[str, str], sizes: list[dict[str, int]], folder: Path
) -> list[set[str]]:
    """Write all models, spread in all ways, under `NAME-NUMBER`; gives the files that this rank has written each time.

    Args:
        cases: The models.
        layouts: The layout that each is written in.
        sizes: Those of the gangs.
        folder: Where they are written.
    """
    use_key_map_of(cases["fused"][1])
    found = []
    with setup_gangs(device="cpu"):
        for number, each in enumerate(sizes):
            gangs = setup_gangs(**each, device="cpu")
            for name, case in cases.items():
                if name != "nllb" or "pp" not in each:  # of which there are no stages
                    model = stage_of(case, gangs)
                    target, layout = folder / f"{name}-{number}", layouts[name]
                    found.append(_opened(partial(save, case, target, gangs, model, layout=layout)))
    return found


def _opened(write: Callable[[], None]) -> set[str]:
    """The files that were opened to write tensors."""
    opened, begin = set(), files._Files._open

    def noting(self: Any, shard: Any) -> None:
        opened.add(shard.file)
        begin(self, shard)

    files._Files._open = noting
    try:
        write()
    finally:
        files._Files._open = begin
    return opened


def outcomes_of_errors(case: Case, folder: Path) -> dict[str, tuple[str, str]]:
    """What ranks meet where one cannot write; nothing may be left of it."""
    with setup_gangs(tp=2, device="cpu") as gangs:
        rank = gangs["world"].rank
        model = stage_of(case, gangs)
        (folder / "there").mkdir(exist_ok=True)
        elsewhere = folder / ("elsewhere" if rank else "here") / "model"
        found = {
            "full": _outcome(lambda: save(case, folder / "full", gangs, model), full=rank == 1),
            "there": _outcome(lambda: save(case, folder / "there", gangs, model)),
            "elsewhere": _outcome(lambda: save(case, elsewhere, gangs, model)),
            "layout": _outcome(lambda: save(case, folder / "layout", gangs, model, layout="hff")),
        }
        with torch.no_grad():
            weight: Any = model.get_parameter("final_proj.weight")
            weight.to_local()[0, 0] = float("nan")
        return {**found, "nan": _outcome(lambda: save(case, folder / "nan", gangs, model))}


def _outcome(write: Callable[[], None], *, full: bool = False) -> tuple[str, str]:
    fsync = os.fsync

    def refused(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    os.fsync = refused if full else fsync
    try:
        write()
    except KinfoldError as error:
        return type(error).__name__, str(error)
    finally:
        os.fsync = fsync
    return "", ""


def private_memory(case: Case, small: Case, folder: Path) -> int:
    """The bytes by which private memory grows at most while ranks write a model."""
    with setup_gangs(tp=4, device="cpu") as gangs:
        for name, each in (("small", small), ("large", case)):
            use_key_map_of(each[1])
            model = stage_of(each, gangs, dtype=torch.float32)
            with most_private_memory() as growth:
                save(each, folder / name, gangs, model, layout="fused")
    return growth[0]

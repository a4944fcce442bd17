"""How a recipe is spread over ranks, as its config says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from kinfold.errors import ConfigError
from kinfold.loader import StandardModelLoader
from kinfold.parallel import (
    Gangs,
    checkpoint_activations,
    keep_stage,
    setup_gangs,
    shard_data_parallel,
    shard_model,
    spread_logits,
)
from kinfold.parallel.gangs import own_device
from kinfold.parallel.native import native_plan
from kinfold.recipes.config import RecipeConfig

TIMEOUT = 300.0
"""Seconds that a rank waits for the others, which may be behind with reading data or with writing a checkpoint."""


def lay_out(config: RecipeConfig) -> Gangs:
    """The gangs that a config asks for.

    Raises:
        ConfigError: There is no such device, or a batch has less sequences than there are ranks to share it.
        ParallelError: The sizes do not fit the number of processes.
    """
    gangs = setup_gangs(tp=config.tp, dp=config.fsdp, pp=config.pp, device=_device(config.device), timeout=TIMEOUT)
    if config.batch_size < gangs["dp"].size:
        gangs.close()
        raise ConfigError(
            f"`batch_size` = {config.batch_size} is less than the {gangs['dp'].size} ranks that share a batch.",
            hint="Raise it, or spread tensors over more ranks (`tp`).",
        )
    return gangs


def sharder_of(loader: StandardModelLoader, config: RecipeConfig) -> Callable[[nn.Module, Any, Gangs], None]:
    """What spreads the tensors of a family's models over the gang `tp`, as a config says."""
    options = {"sequence_parallel": True} if config.sequence_parallel else {}

    def shard(model: nn.Module, family_config: Any, gangs: Gangs) -> None:
        sharder: Any = loader.sharder
        if gangs["tp"].size > 1 and sharder is not None:
            sharder(model, family_config, gangs, **options)
        elif gangs["tp"].size > 1:
            shard_model(model, native_plan(model), gangs, **options)

    return shard


def spread_layers(model: nn.Module, config: RecipeConfig, gangs: Gangs) -> None:
    """What is done with a model that is spread over `tp`, besides: logits, stages, checkpointing, FSDP."""
    spread_logits(model)  # the losses of recipes take them so
    keep_stage(model, gangs["pp"])
    if config.activation_checkpointing:
        checkpoint_activations(model)
    # Autocast would cast what FSDP has gathered in float32, and keep it for the whole pass. So weights are cast before
    # they are sent, which is half as much; autocast still says what is computed in float32, as in one process.
    shard_data_parallel(model, gangs["dp"], dtype=torch.bfloat16 if config.dtype == "bfloat16" else None)


def _device(name: str | None) -> torch.device:
    """The device of this rank; that it is there is tried out."""
    try:
        return torch.empty(0, device=own_device(name)).device
    except (RuntimeError, AssertionError) as error:  # torch's own, for a name or a device that there is not
        raise ConfigError(f"`device` = {name!r} cannot be used: {str(error).splitlines()[0]}") from error

"""What a `Trainer` cannot be made of: every fault at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from kinfold.errors import TrainingError
from kinfold.parallel.gangs import Gangs
from kinfold.training.checkpoints import newest_checkpoint
from kinfold.training.data import BatchReader
from kinfold.training.unit import StagedUnit

_SHOWN = 10
"""Parameters that are named before the rest is counted."""

_SPREAD_BY = {"dp": "shard_data_parallel", "tp": "shard_model", "pp": "keep_stage"}
"""The gangs that a model is trained on, and what spreads it over them."""


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Check the arguments of a `Trainer`, by their names.

    Raises:
        TrainingError: Lists everything that is wrong.
    """
    model, optimizer = arguments["unit"].model, arguments["optimizer"]
    faults = chain(
        _numbers(arguments),
        _together(arguments),
        _scheduler(arguments["lr_scheduler"], optimizer),
        _parameters(model, optimizer),
        _precision(model, arguments["dtype"]),
        _gangs(arguments["unit"], arguments["gangs"]),
        _shares(arguments),
    )
    if listed := list(faults):
        raise TrainingError("This cannot be trained:", faults=listed)


def _numbers(arguments: Mapping[str, Any]) -> Iterator[str]:
    optional = (
        "max_num_steps", "max_num_data_epochs", "validate_every_n_steps", "checkpoint_every_n_steps",
        "keep_last_n_checkpoints",
    )  # fmt: skip
    for name in optional:
        if arguments[name] is not None and not _is_count(arguments[name]):
            yield f"{name} = {arguments[name]!r}: must be an int above 0, or None"
    for name in ("gradient_accumulation", "publish_metrics_every_n_steps"):
        if not _is_count(arguments[name]):
            yield f"{name} = {arguments[name]!r}: must be an int above 0"
    norm = arguments["max_gradient_norm"]
    if norm is not None and not 0 < norm < float("inf"):
        yield f"max_gradient_norm = {norm!r}: must be a number above 0, or None"


def _together(arguments: Mapping[str, Any]) -> Iterator[str]:
    """What one argument asks of another."""
    if arguments["max_num_steps"] is None and arguments["max_num_data_epochs"] is None:
        yield "max_num_steps and max_num_data_epochs are None: it would never end"
    if (arguments["valid_unit"] is None) != (arguments["valid_data_reader"] is None):
        yield "valid_unit and valid_data_reader go together: one is None"
    if arguments["valid_data_reader"] is arguments["data_reader"]:
        yield "valid_data_reader is data_reader: must be another, since a validation would move its place"
    needs = (
        ("validate_every_n_steps", "valid_unit"),
        ("checkpoint_every_n_steps", "checkpoint_dir"),
        ("keep_last_n_checkpoints", "checkpoint_dir"),
    )
    for name, needed in needs:
        if arguments[name] is not None and arguments[needed] is None:
            yield f"{name} = {arguments[name]!r} needs {needed}, which is None"
    folder = arguments["checkpoint_dir"]
    if folder is not None and not arguments["resume"] and (found := newest_checkpoint(Path(folder))):
        yield f"checkpoint_dir has {found.name}: name another folder, or go on from there (resume=True)"


def _scheduler(scheduler: Any, optimizer: Optimizer) -> Iterator[str]:
    if isinstance(scheduler, ReduceLROnPlateau):
        yield "lr_scheduler is a ReduceLROnPlateau: must be one that goes by the step"
    elif scheduler is not None and getattr(scheduler, "optimizer", optimizer) is not optimizer:
        yield "lr_scheduler is one of another optimizer"


def _parameters(model: nn.Module, optimizer: Optimizer) -> Iterator[str]:
    named = dict(model.named_parameters())
    held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    if foreign := len(held - set(named.values())):
        yield f"optimizer has {foreign} parameters that are not the model's"
    idle = [name for name, parameter in named.items() if parameter.requires_grad and parameter not in held]
    if idle:
        yield f"optimizer does not have {_listed(idle)}: give them to it, or freeze them (requires_grad_(False))"
    if not any(parameter.requires_grad for parameter in held):
        yield "no parameter is trained: none of the optimizer's requires a gradient"
    if empty := [name for name, parameter in named.items() if parameter.is_meta]:
        yield f"the model has no storage for {_listed(empty)}: load or materialize it"


def _precision(model: nn.Module, dtype: torch.dtype) -> Iterator[str]:
    if dtype not in (torch.float32, torch.bfloat16):
        yield f"dtype = {dtype}: must be torch.float32 or torch.bfloat16"
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    narrow = [name for name, parameter in trained.items() if parameter.dtype not in (torch.float32, torch.float64)]
    if narrow:
        kinds = ", ".join(sorted({str(trained[name].dtype) for name in narrow}))
        yield f"{_listed(narrow)} are {kinds}: weights that are trained must be torch.float32, whatever dtype is"


def _gangs(unit: Any, gangs: Gangs | None) -> Iterator[str]:
    """What ranks there are, and what the model was spread over."""
    model: nn.Module = unit.model
    sizes = {} if gangs is None else {name: size for name, size in gangs.sizes.items() if size > 1}
    if gangs is None and any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        yield "the model is spread over ranks, and gangs is None"
    for name, size in sizes.items():
        trained = ((key, parameter) for key, parameter in model.named_parameters() if parameter.requires_grad)
        whole = [key for key, parameter in trained if name not in _spread_over(parameter)]
        if name not in _SPREAD_BY:
            yield f"the gang {name} has {size} ranks: must be 1; training is over {', '.join(_SPREAD_BY)}"
        elif name == "pp":
            if not isinstance(unit, StagedUnit):
                yield f"unit is a {type(unit).__name__}, and the gang pp has {size} ranks: must be a PipelinedUnit"
        elif whole:
            yield f"{_listed(whole)} are not spread over the gang {name}: {_SPREAD_BY[name]} does that"


def _shares(arguments: Mapping[str, Any]) -> Iterator[str]:
    """Whether readers give each rank its share of a batch, and nothing else."""
    ranks = 1 if arguments["gangs"] is None else arguments["gangs"]["dp"].size
    for name in ("data_reader", "valid_data_reader"):
        reader = arguments[name]
        if isinstance(reader, BatchReader) and reader.num_shares != ranks:
            yield f"{name} shares each batch among {reader.num_shares} ranks, and dp has {ranks}: give it that gang"


def _spread_over(parameter: nn.Parameter) -> tuple[str, ...]:
    """The names of the gangs that a parameter is spread over."""
    return (parameter.device_mesh.mesh_dim_names or ()) if isinstance(parameter, DTensor) else ()


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")

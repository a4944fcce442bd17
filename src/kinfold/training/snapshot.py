"""The state of a run in a folder of torch.distributed.checkpoint (DCP), which keeps of each tensor what ranks have.

`model` and `optimizer` are laid out as torch's own `get_state_dict` lays them out: the optimizer's state by the names
of parameters. All else is kept whole, in `run`.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint._nested_dict import unflatten_state_dict
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from kinfold.checkpoint.dcp_torch import DcpReader, cause_of, without_group
from kinfold.errors import CheckpointError, TrainingError
from kinfold.training.ranks import Ranks

FORMAT = 1
"""Of what is written here; goes up when it is laid out in another way."""

Run = Mapping[str, Any]
"""What is to be kept besides model and optimizer; plain data and tensors."""


def write_snapshot(folder: Path, model: nn.Module, optimizer: Optimizer, run: Run, ranks: Ranks) -> None:
    """Write a snapshot into a folder, each rank its part, and have its files on the disk; `run` is the first rank's.

    Raises:
        TrainingError: Something in `run` is neither plain data nor a tensor, so that it could not be read again.
        CheckpointError: torch could not write it. What one rank raises all raise.
    """
    ranks.first(lambda: _check_plain(run))
    state = {
        "model": {name: _kept_whole(value) for name, value in model.state_dict().items()},
        "optimizer": {"type": type(optimizer).__qualname__, **_of_all_stages(_by_name(optimizer, model), ranks)},
        "run": _kept_whole({"format": FORMAT, **run}),
    }
    writer = FileSystemWriter(folder)
    try:
        if ranks.many:
            save(state, storage_writer=writer, process_group=ranks.world.group)
        else:
            without_group(save, state, storage_writer=writer)
    except CheckpointException as error:
        cause = cause_of(error)
        if isinstance(cause, OSError):
            raise cause from error
        raise CheckpointError(f"{folder} could not be written: {cause}") from error


def read_snapshot(
    folder: Path, model: nn.Module, optimizer: Optimizer, *, elsewhere: Collection[str] = frozenset()
) -> Run:
    """Put the model and the optimizer into the state of a snapshot, and give the rest.

    Each rank reads its part, however the model was spread when it was written, and waits for nobody.

    Args:
        folder: The snapshot.
        model: The model, or a stage of it.
        optimizer: Of its parameters.
        elsewhere: The names of parameters that are in other stages.

    Raises:
        CheckpointError: The folder is damaged or hostile.
        TrainingError: It is a snapshot of another model or optimizer; lists every difference. Nothing is changed then.
    """
    reader = DcpReader(folder)
    metadata: Metadata = reader.read_metadata()
    stored = {
        key: value for key, value in metadata.state_dict_metadata.items() if _subject(key, metadata) not in elsewhere
    }
    if "run" not in stored or "optimizer.type" not in stored:
        raise TrainingError(f"{folder} is no checkpoint of a run: it holds a model alone.")
    own = {f"model.{name}": value for name, value in model.state_dict().items()}
    weights = {key: value for key, value in stored.items() if key.startswith("model.")}
    if faults := list(_model_faults(own, weights)):
        raise TrainingError(f"{folder} is of another model:", faults=faults)
    # Read before anything is changed.
    places = _places(metadata, model)
    others = _read(folder, reader, {key: places[key] for key in stored if key not in weights})
    for group in others["optimizer"]["param_groups"]:
        group["params"] = [name for name in group["params"] if name not in elsewhere]
    run = others["run"][0]
    if run.get("format") != FORMAT:
        raise TrainingError(
            f"{folder} has the format {run.get('format')}, and this version of Kinfold reads {FORMAT}.",
            hint="Go on with the version that wrote it; its model can still be loaded.",
        )
    if faults := list(_optimizer_faults(others["optimizer"], optimizer, model)):
        raise TrainingError(f"{folder} is of another optimizer:", faults=faults)
    read = _read(folder, reader, own)["model"]  # into the model's own tensors
    model.load_state_dict({name: value if isinstance(value, Tensor) else value[0] for name, value in read.items()})
    optimizer.load_state_dict(_by_index(others["optimizer"]))
    return run


def _kept_whole(value: Any) -> Any:
    """What DCP leaves as it is: it takes mappings apart, and loses those that are empty, but not tuples."""
    return value if isinstance(value, Tensor) else (value,)


class _PlainLoadPlanner(DefaultLoadPlanner):
    """Reads plain data and tensors; nothing that could run code."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        self.state_dict[read_item.dest_index.fqn] = torch.load(value, map_location="cpu", weights_only=True)


def _read(folder: Path, reader: DcpReader, flat: dict[str, Any]) -> dict[str, Any]:
    """Entries by their names in the metadata, read and nested as they were."""
    try:
        without_group(load, flat, storage_reader=reader, planner=_PlainLoadPlanner())
    except (Exception, CheckpointException) as error:  # what torch meets in a damaged file may be anything
        raise CheckpointError(f"{folder} cannot be read: {cause_of(error)}") from error
    return unflatten_state_dict(flat, reader.read_metadata().planner_data)


def _subject(key: str, metadata: Metadata) -> str | None:
    """The name of the parameter that an entry is of, or is kept for by the optimizer; None for any other."""
    match metadata.planner_data.get(key):
        case ("model", name) | ("optimizer", "state", name, _):
            return name
    return None


def _places(metadata: Metadata, model: nn.Module) -> dict[str, Tensor | None]:
    """What each entry is read into; None for one that is no tensor.

    What an optimizer keeps of a weight lies as the weight does.
    """
    parameters = dict(model.named_parameters())
    places: dict[str, Tensor | None] = {}
    for key, value in metadata.state_dict_metadata.items():
        match metadata.planner_data.get(key):
            case ("optimizer", "state", name, _):
                weight = parameters.get(name)
            case _:
                weight = None
        if not isinstance(value, TensorStorageMetadata):
            places[key] = None
        elif isinstance(weight, DTensor) and weight.shape == value.size:
            places[key] = torch.empty_like(weight.detach(), dtype=value.properties.dtype)
        else:
            places[key] = torch.empty(value.size, dtype=value.properties.dtype)
    return places


def _check_plain(run: Run) -> None:
    faults = []
    for name, value in run.items():
        buffer = io.BytesIO()
        try:
            torch.save(value, buffer)
            buffer.seek(0)
            torch.load(buffer, map_location="cpu", weights_only=True)
        except Exception as error:  # what pickling meets may be anything
            faults.append(f"{name}: {str(error).splitlines()[0]}")
    if faults:
        raise TrainingError(
            "A checkpoint could not be read again, since it would hold more than plain data:", faults=faults
        )


def _by_name(optimizer: Optimizer, model: nn.Module) -> dict[str, Any]:
    """The state dict of an optimizer, with the names of parameters in place of their numbers."""
    state_dict = optimizer.state_dict()
    names = dict(enumerate(_parameter_names(optimizer, model)))
    return {
        "state": {names[number]: state for number, state in state_dict["state"].items()},
        "param_groups": [
            {**group, "params": [names[number] for number in group["params"]]} for group in state_dict["param_groups"]
        ],
    }


def _of_all_stages(own: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    """The same with the parameters of all stages in each group, in their order."""
    every = ranks.pp.gathered([group["params"] for group in own["param_groups"]])
    if len({len(groups) for groups in every}) > 1:
        raise TrainingError("The optimizer has not as many groups of parameters in each stage.")
    merged = [
        list(dict.fromkeys(name for groups in every for name in groups[number]))  # two stages may share one
        for number in range(len(own["param_groups"]))
    ]
    groups = [{**group, "params": names} for group, names in zip(own["param_groups"], merged, strict=True)]
    return {**own, "param_groups": groups}


def _by_index(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict that an optimizer reads, of one by names."""
    numbers: dict[str, int] = {}
    for group in stored["param_groups"]:
        for name in group["params"]:
            numbers[name] = len(numbers)
    return {
        "state": {numbers[name]: state for name, state in stored.get("state", {}).items()},
        "param_groups": [
            {**group, "params": [numbers[name] for name in group["params"]]} for group in stored["param_groups"]
        ],
    }


def _parameter_names(optimizer: Optimizer, model: nn.Module) -> list[str]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]


def _model_faults(own: Mapping[str, Any], stored: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"{_name(key)}: the checkpoint does not have it" for key in own if key not in stored)
    yield from (f"{_name(key)}: the model does not have it" for key in stored if key not in own)
    for key in own:
        if key in stored and (was := _described(stored[key])) != (now := _described(own[key])):
            yield f"{_name(key)}: {was} in the checkpoint, {now} in the model"


def _name(key: str) -> str:
    return key.removeprefix("model.")


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    if isinstance(value, TensorStorageMetadata):
        return f"{value.properties.dtype} {tuple(value.size)}"
    return "no tensor"


def _optimizer_faults(stored: Mapping[str, Any], optimizer: Optimizer, model: nn.Module) -> Iterator[str]:
    kind = type(optimizer).__qualname__
    if stored["type"] != kind:
        yield f"it was {stored['type']}, and is {kind}"
    was = [group["params"] for group in stored["param_groups"]]
    names = iter(_parameter_names(optimizer, model))
    now = [[next(names) for _ in group["params"]] for group in optimizer.param_groups]
    if len(was) != len(now):
        yield f"it had {len(was)} groups of parameters, and has {len(now)}"
    for number, (before, after) in enumerate(zip(was, now, strict=False)):
        yield from (f"group {number} had {name}, and has not" for name in before if name not in after)
        yield from (f"group {number} has {name}, and had not" for name in after if name not in before)
        if before != after and sorted(before) == sorted(after):
            yield f"group {number} has its parameters in another order"
    for name, weight in model.named_parameters():
        kept = stored.get("state", {}).get(name, {}) if isinstance(weight, DTensor) else {}
        for key, value in kept.items():
            if isinstance(value, Tensor) and value.dim() and value.shape != weight.shape:
                yield f"{key} of {name} is {_described(value)}, which cannot be spread as {_described(weight)} is"

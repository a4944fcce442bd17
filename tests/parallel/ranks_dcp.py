"""What ranks do in the tests of torch's own checkpoints (DCP); each function is called on every rank."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import torch
from ranks_loading import Case, loaded, loader_of, wrong_weights
from torch import nn
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.fsdp import fully_shard

from kinfold.parallel import Gangs, setup_gangs

LAYOUTS = {"tp4": {"tp": 4}, "dp4": {"dp": 4}, "tp2dp2": {"tp": 2, "dp": 2}, "tp2": {"tp": 2, "dp": 2}}
"""The sizes of the gangs; in the last, weights are not spread over those that share the data."""


def written_and_read(cases: Mapping[str, Case], folder: Path) -> list[str]:
    """Write models in every layout, under `NAME-LAYOUT`, and read each in it and the next; gives what is wrong."""
    found = []
    with setup_gangs(device="cpu") as everyone:
        gangs = {name: setup_gangs(**sizes, device="cpu") for name, sizes in LAYOUTS.items()}
        for name, case in cases.items():
            for layout in LAYOUTS:
                model = _loaded(case, gangs[layout], layout)
                save({"model": model.state_dict()}, checkpoint_id=folder / f"{name}-{layout}")
        save(_odd_sizes(), checkpoint_id=folder / "odd")
        everyone["world"].barrier()
        for name, case in cases.items():
            whole = loader_of(case)(case[0])
            for layout, following in zip(LAYOUTS, [*LAYOUTS][1:] + [*LAYOUTS][:1], strict=True):
                card = msgspec.structs.replace(case[0], checkpoint=folder / f"{name}-{layout}")
                for other in (layout, following):
                    model = _loaded((card, *case[1:]), gangs[other], other)
                    found += [f"{name} from {layout} to {other}: {fault}" for fault in wrong_weights(model, whole)]
    return found


def _loaded(case: Case, gangs: Gangs, layout: str) -> nn.Module:
    return loader_of(case)(case[0], gangs=gangs) if layout == "tp2" else loaded(case, gangs)


def _odd_sizes() -> dict[str, torch.Tensor]:
    """Parameters that do not go evenly into four, of which some ranks have nothing."""
    model = nn.ParameterDict(odd_tensors())
    fully_shard(model)
    return dict(model.state_dict())


def odd_tensors() -> dict[str, torch.Tensor]:
    """The same in whole."""
    shapes = {"one": (1,), "two": (2, 3), "three": (3,), "five": (5, 2), "nine": (9,)}
    return {name: torch.arange(torch.Size(shape).numel()).float().view(shape) for name, shape in shapes.items()}

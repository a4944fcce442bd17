"""Whether a plan loses anything: what each rank would have, put together again in one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import TYPE_CHECKING

from kinfold.errors import ParallelError
from kinfold.parallel.gangs import Gangs, pretended_gangs

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.distributed.tensor import Placement


def joined_shards(model: nn.Module, shard: Callable[[nn.Module, Gangs], object], *, tp: int) -> dict[str, Tensor]:
    """The parameters of a model, each put together of the parts that ranks have of it.

    Every rank is pretended in turn, and nothing is sent.

    Args:
        model: The model, with weights; it stays as it is.
        shard: Spreads a copy of it in place, as one rank does: `lambda model, gangs: shard_model(model, plan, gangs)`.
        tp: How many ranks share each tensor.

    Returns:
        By name; equal to those of the model, bit for bit, if nothing is lost.

    Raises:
        ParallelError: The model cannot be spread over so many ranks; parameters that all of them have in whole are
            not the same on all (lists these); or this process is one of many already.
    """
    from torch.distributed.tensor import DTensor, Replicate

    parts: dict[str, list[Tensor]] = {}
    placements: dict[str, Placement] = {}
    for rank in range(tp):
        spread = deepcopy(model)
        with pretended_gangs(rank=rank, tp=tp) as gangs:
            shard(spread, gangs)
            for name, parameter in spread.named_parameters():
                whole = not isinstance(parameter, DTensor)
                placements[name] = Replicate() if whole else parameter.placements[0]
                local = parameter if whole else parameter.to_local()
                parts.setdefault(name, []).append(local.detach().clone())
    return _joined(parts, placements)


def _joined(parts: Mapping[str, list[Tensor]], placements: Mapping[str, Placement]) -> dict[str, Tensor]:
    import torch
    from torch.distributed.tensor import Shard

    joined, faults = {}, []
    for name, placement in placements.items():
        first, *others = parts[name]
        joined[name] = torch.cat(parts[name], dim=placement.dim) if isinstance(placement, Shard) else first
        if not isinstance(placement, Shard) and not all(torch.equal(first, other) for other in others):
            faults.append(name)
    if faults:
        raise ParallelError("These are not the same on all ranks:", faults=faults)
    return joined

"""Putting the tensors of a model that is spread over ranks together, one at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from kinfold.checkpoint.manifest import Manifest, TensorInfo, state_dict_manifest
from kinfold.errors import ParallelError
from kinfold.keymap.ops.base import bits
from kinfold.parallel.gangs import Gang
from kinfold.parallel.together import world_of


class Assembly:
    """The tensors of all ranks; every rank makes one of its own, and asks for the same in the same order.

    Args:
        state_dict: What this rank has: DTensors, and plain tensors, which are the same on every rank that has them.
        gangs: The ranks; None for this process alone.

    Attributes:
        rank: Which of the ranks this process is.
        size: How many there are.
    """

    def __init__(self, state_dict: Mapping[str, Tensor], gangs: Mapping[str, Gang] | None) -> None:
        self._own = state_dict
        self._device = getattr(gangs, "device", torch.device("cpu"))
        world = world_of(gangs)
        if world is None and gangs is not None and any(gang.size > 1 for gang in gangs.values()):
            raise ParallelError("What ranks have is put together by gangs that have a `world`, of real ranks.")
        self.rank, self.size = (0, 1) if world is None else (world.rank, world.size)
        manifest = state_dict_manifest(state_dict)
        self._manifests = [manifest] if world is None else world.gathered(manifest)

    def manifest(self, model: Manifest) -> Manifest:
        """All tensors, in the order of the model, with the dtypes that they have.

        Args:
            model: The names and shapes that there have to be.

        Raises:
            ParallelError: The ranks do not have just these; lists everything.
        """
        found: dict[str, dict[TensorInfo, None]] = {}
        for manifest in self._manifests:
            for name, info in manifest.items():
                found.setdefault(name, {})[info] = None
        if faults := list(_faults(model, found)):
            raise ParallelError("What the ranks have is not the model:", faults=faults)
        return {name: next(iter(found[name])) for name in model}

    def holders(self, name: str) -> set[int]:
        """The ranks that have a tensor, or a part of it."""
        return {rank for rank, manifest in enumerate(self._manifests) if name in manifest}

    @torch.no_grad()
    def whole(self, name: str, wanted: Collection[int]) -> Tensor | None:
        """A tensor in whole on the ranks that want it, wherever its parts are; None on the others."""
        own, holders = self._own.get(name), self.holders(name)
        whole = own.full_tensor() if isinstance(own, DTensor) else own
        for rank in sorted(set(wanted) - holders):
            if self.rank == min(holders) and whole is not None:
                dist.send(bits(whole), rank)
            elif self.rank == rank:
                whole = self._received(name, min(holders))
        return whole.detach() if whole is not None and self.rank in wanted else None

    def _received(self, name: str, sender: int) -> Tensor:
        info = self._manifests[sender][name]
        tensor = torch.empty(info.shape, dtype=getattr(torch, info.dtype), device=self._device)
        dist.recv(bits(tensor), sender)
        return tensor


def _faults(model: Manifest, found: Mapping[str, Mapping[TensorInfo, None]]) -> Iterator[str]:
    for name, info in model.items():
        shapes = {known.shape for known in found.get(name, {})}
        if not shapes:
            yield f"{name} is on no rank"
        elif shapes != {info.shape}:
            yield f"{name} has the shape {' and '.join(map(str, shapes))}, not {info.shape}"
        elif len(found[name]) > 1:
            yield f"{name} is {' and '.join(known.dtype for known in found[name])} on different ranks"
    yield from (f"{name} is none of the model's" for name in found if name not in model)

"""Gangs: the ranks that work on one thing together, on torch's DeviceMesh.

Under torchrun every process is a rank. `setup_gangs(tp=4, dp=2)` lays them out as a mesh, whose rows and columns are
gangs; one process by itself has gangs of one rank, and needs no process group.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from math import prod
from typing import TYPE_CHECKING, Self, TypeVar

from kinfold.errors import ParallelError
from kinfold.parallel.watch import PATIENCE, Watch

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

T = TypeVar("T")

NAMES = ("pp", "dp", "cp", "ep", "tp")
"""Pipeline stages, data, context, experts, tensors: from the ranks that say least to one another to those that say
most, which are neighbours."""

TIMEOUT = 120.0
"""Seconds that a rank waits for the others in one operation."""


@dataclass(frozen=True, slots=True, eq=False)
class Gang:
    """Ranks that share something.

    Attributes:
        name: One of `NAMES`, or "world" for all ranks.
        rank: Which of them this process is.
        size: How many there are.
        mesh: Their mesh, of one dimension; None where there is one process and no process group.
    """

    name: str
    rank: int
    size: int
    mesh: DeviceMesh | None = None

    @property
    def group(self) -> ProcessGroup | None:
        """Their process group; None where there is none."""
        return None if self.mesh is None else self.mesh.get_group()

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over the ranks, in place."""
        if self.size > 1:
            import torch.distributed as dist

            dist.all_reduce(tensor, group=self.group)
        return tensor

    def gathered(self, own: T) -> list[T]:
        """What each rank calls this with, in their order; it can be pickled."""
        found = [own] * self.size
        if self.size > 1:
            import torch.distributed as dist

            dist.all_gather_object(found, own, group=self.group)
        return found

    def barrier(self) -> None:
        """Wait for the others."""
        if self.size > 1:
            import torch.distributed as dist

            dist.barrier(self.group)


class Gangs(Mapping[str, Gang]):
    """All gangs that this process is in, by name; those of one rank are among them.

    Attributes:
        device: Where this rank computes.
        mesh: The mesh of all ranks; None where there is no process group.
    """

    def __init__(
        self, gangs: Mapping[str, Gang], device: torch.device, mesh: DeviceMesh | None, *, owned: bool
    ) -> None:
        self._gangs = dict(gangs)
        self._owned = owned
        self._watch = Watch(self["world"].rank, self["world"].size) if owned else None
        self.device = device
        self.mesh = mesh

    def __getitem__(self, name: str) -> Gang:
        return self._gangs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._gangs)

    def __len__(self) -> int:
        return len(self._gangs)

    @property
    def sizes(self) -> dict[str, int]:
        """How many ranks each gang of `NAMES` has."""
        return {name: self[name].size for name in NAMES}

    def __str__(self) -> str:
        sizes = " ".join(f"{name}={size}" for name, size in self.sizes.items() if size > 1)
        return sizes or "one rank"

    def at(self, place: str) -> None:
        """Say what this rank does now, such as "step 12", for errors on other ranks that wait for it."""
        if self._watch is not None:
            self._watch.at(place)

    def guarding(self) -> AbstractContextManager[None]:
        """Have errors of operations between ranks name the rank that has died, hangs or has failed: a `RankError`."""
        return nullcontext() if self._watch is None else self._watch.guarding()

    def close(self) -> None:
        """Take leave of the others, if `setup_gangs` made the process group."""
        import torch.distributed as dist

        if self._watch is not None:
            self._watch.close()
        if self._owned and dist.is_initialized():
            dist.destroy_process_group()
            _forget_meshes()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def setup_gangs(
    *,
    tp: int = 1,
    dp: int | None = None,
    pp: int = 1,
    ep: int = 1,
    cp: int = 1,
    device: torch.device | str | None = None,
    timeout: float = TIMEOUT,
) -> Gangs:
    """Lay the ranks out as gangs; every rank calls it with the same sizes.

    Args:
        tp: Ranks that share each tensor (tensor parallel).
        dp: Ranks that share the data, and with FSDP the weights; None for as many as there are left.
        pp: Ranks that share the layers (pipeline parallel).
        ep: Ranks that share the experts.
        cp: Ranks that share each sequence (context parallel).
        device: Where ranks compute: "cpu", or "cuda" for the GPU of the rank; None for that if there is one.
        timeout: Seconds that a rank waits for the others in one operation, until it is an error.

    Raises:
        ParallelError: The sizes do not fit the number of processes, of which everything is listed; or these do not fit
            the GPUs.
    """
    import torch
    import torch.distributed as dist

    world = dist.get_world_size() if dist.is_initialized() else int(os.environ.get("WORLD_SIZE", "1"))
    sizes = _sizes({"pp": pp, "dp": dp, "cp": cp, "ep": ep, "tp": tp}, world)
    device = own_device(device)
    if not dist.is_initialized() and "RANK" not in os.environ:
        return alone(device)
    owned = not dist.is_initialized()
    if owned:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        # What is left of the time goes into finding out which rank it was.
        dist.init_process_group(backend, timeout=timedelta(seconds=max(timeout - 2 * PATIENCE, timeout / 2)))
    return _on_mesh(sizes, device, owned=owned)


def alone(device: torch.device | str = "cpu") -> Gangs:
    """The gangs of one process, of one rank each."""
    import torch

    return Gangs({name: Gang(name, 0, 1) for name in ("world", *NAMES)}, torch.device(device), None, owned=False)


@contextmanager
def pretended_gangs(
    *,
    rank: int = 0,
    tp: int = 1,
    dp: int = 1,
    pp: int = 1,
    ep: int = 1,
    cp: int = 1,
    device: torch.device | str = "cpu",
) -> Iterator[Gangs]:
    """Gangs as one rank of many has them, in one process: nothing is sent, so that only shapes come out right.

    With sizes as in `setup_gangs`; `device` is where the rank computes.

    Raises:
        ParallelError: There is a process group already, or no such rank.
    """
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    sizes = {"pp": pp, "dp": dp, "cp": cp, "ep": ep, "tp": tp}
    world = prod(sizes.values())
    if dist.is_initialized():
        raise ParallelError("Ranks cannot be pretended where there is a process group.")
    if not 0 <= rank < world:
        raise ParallelError(f"There is no rank {rank} of {world}.")
    dist.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
    try:
        yield _on_mesh(sizes, own_device(device), owned=False)
    finally:
        dist.destroy_process_group()
        _forget_meshes()


def _forget_meshes() -> None:
    """Have DTensor forget the meshes there were: it takes one that comes later, and looks the same, for the old one."""
    if "torch.distributed.tensor" in sys.modules:
        from torch.distributed.tensor.debug import _clear_sharding_prop_cache

        _clear_sharding_prop_cache()


def _on_mesh(sizes: Mapping[str, int], device: torch.device, *, owned: bool) -> Gangs:
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh(device.type, tuple(sizes.values()), mesh_dim_names=tuple(sizes))
    gangs = {name: Gang(name, mesh.get_local_rank(name), size, mesh[name]) for name, size in sizes.items()}
    everyone = init_device_mesh(device.type, (mesh.size(),), mesh_dim_names=("world",))
    world = Gang("world", everyone.get_local_rank(), everyone.size(), everyone)
    return Gangs({"world": world, **gangs}, device, mesh, owned=owned)


def _sizes(asked: Mapping[str, int | None], world: int) -> dict[str, int]:
    """The size of every gang, in the order of the mesh."""
    faults = [
        f"{name} = {size!r}: must be an int above 0"
        for name, size in asked.items()
        if size is not None and (type(size) is not int or size < 1)
    ]
    if faults:
        raise ParallelError("There are no such gangs:", faults=faults)
    known = {name: size for name, size in asked.items() if size is not None and (size > 1 or name != "dp")}
    product = prod(known.values())
    shown = " * ".join(f"{name}={size}" for name, size in asked.items() if size is not None and size > 1) or "1"
    fits = world % product == 0 if asked["dp"] is None else world == product
    if not fits:
        right = f"{product} processes" if asked["dp"] is not None else f"{product} processes or a multiple of it"
        raise ParallelError(
            f"{shown} does not fit {world} process{'es' if world > 1 else ''}.",
            hint=f"Start {right}: torchrun --nproc-per-node {product} ...",
        )
    return {name: (world // product if size is None else size) for name, size in asked.items()}


def own_device(asked: torch.device | str | None) -> torch.device:
    """Where this rank computes: "cuda" is the GPU of the rank, None that or the CPU.

    Raises:
        ParallelError: There are fewer GPUs than ranks on this machine.
    """
    import torch

    device = torch.device(asked if asked is not None else "cuda" if torch.cuda.is_available() else "cpu")
    if device.type != "cuda" or device.index is not None:
        return device
    gpus, ranks = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if 0 < gpus < ranks:
        raise ParallelError(
            f"{ranks} processes were started on a machine that has {gpus} GPU{'s' if gpus > 1 else ''}.",
            hint=f'Start one for each: torchrun --nproc-per-node {gpus} ..., or compute on the CPU: device="cpu".',
        )
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))

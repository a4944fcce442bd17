"""Work that all ranks come through, or none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

from kinfold.errors import RankError
from kinfold.parallel.gangs import Gang, Gangs


@contextmanager
def together(gangs: Mapping[str, Gang] | None, what: str) -> Iterator[None]:
    """Work that has failed on all ranks if it has failed on one; each waits at the end for the others.

    A rank that has failed does nothing more within, so that no other may wait for it there.

    Args:
        gangs: Of which "world" has the ranks; None, or without it, for this process alone.
        what: What they do, as the message of an error begins: "Loading x".

    Raises:
        RankError: It went well on this rank, but not on others; says what has happened on each of them. Where it did
            not go well, the error is that of the rank itself.
    """
    with gangs.guarding() if isinstance(gangs, Gangs) else nullcontext():
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        world = world_of(gangs)
        if world is not None and _any_failed(world, failure):
            texts = world.gathered(None if failure is None else f"{type(failure).__name__}: {failure}")
            faults = [f"rank {rank}: {text}" for rank, text in enumerate(texts) if text is not None]
            failure = failure or RankError(f"{what} failed on other ranks:", faults=faults)
        if failure is not None:
            raise failure


def world_of(gangs: Mapping[str, Gang] | None) -> Gang | None:
    """All ranks, if there are others that can be talked to."""
    world = None if gangs is None else gangs.get("world")
    if world is None or world.size == 1:
        return None
    import torch.distributed as dist

    return None if dist.get_backend(world.group) == "fake" else world  # others are but pretended


def _any_failed(gang: Gang, failure: Exception | None) -> bool:
    import torch

    assert gang.mesh is not None
    return bool(gang.all_reduce(torch.tensor(int(failure is not None), device=gang.mesh.device_type)))

"""What the ranks of a run say to one another; a process by itself says nothing."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist

from kinfold.errors import TrainingError
from kinfold.parallel.gangs import Gangs, alone

T = TypeVar("T")


class Ranks:
    """The ranks that train one model together.

    Args:
        gangs: What they are laid out as; None for a process by itself.

    Attributes:
        world: All of them.
        dp: Those that share the data.
        pp: Those that have the stages of the model.
        many: Whether there are others.
        is_first: Whether this one tells values, and makes and removes folders.
        asked_to_stop: Whether this one was asked to stop.
        at: Says what this one does now, for errors on others.
        guarding: Has errors between ranks name the one that they come from, within a block.
    """

    def __init__(self, gangs: Gangs | None = None) -> None:
        gangs = alone() if gangs is None else gangs
        self.world, self.dp, self.pp = gangs["world"], gangs["dp"], gangs["pp"]
        self.at = gangs.at
        self.guarding = gangs.guarding
        self.many = self.world.size > 1
        self.is_first = self.world.rank == 0
        self.asked_to_stop = False
        self._all_know = False
        self._counts = gangs["tp"].rank == 0 and gangs["pp"].rank == 0
        # What is summed are numbers of Python's: through gloo, where there is one, no GPU is waited for.
        through_gloo = not self.many or "cpu:" in dist.get_backend_config(self.world.group)
        self._device = torch.device("cpu") if through_gloo else gangs.device

    @property
    def stopping(self) -> bool:
        """Whether one of them was asked to stop, and all know."""
        return self._all_know if self.many else self.asked_to_stop

    def once(self, number: float) -> float:
        """A number as it is to be summed where some ranks, which compute the same, have the same: 0 on all but one."""
        return number if self._counts else 0

    def summed(self, numbers: Iterable[float]) -> list[float]:
        """The sums of numbers over all ranks, the same bits on each; with them all come to know whether to stop."""
        if not self.many:
            return list(numbers)
        own = torch.tensor([*numbers, self.asked_to_stop], dtype=torch.float64, device=self._device)
        *sums, stops = self.world.all_reduce(own).tolist()
        self._all_know = stops > 0
        return sums

    def kept(self, own: Any) -> Any:
        """What the ranks that share the data have, as it is kept: once if all have the same, else a list by rank."""
        every = self.dp.gathered(own)
        try:
            same = all(other == own for other in every)
        except (RuntimeError, ValueError):  # of tensors and arrays, of which it is not asked
            same = len(every) == 1
        return own if same else every

    def own(self, kept: Any) -> Any:
        """This rank's part of what was kept; None if it is a list of another number of ranks."""
        if not isinstance(kept, list):
            return kept
        return kept[self.dp.rank] if len(kept) == self.dp.size else None

    def elsewhere(self, own: Iterable[str]) -> set[str]:
        """Names that the other stages have, given this one's."""
        own = set(own)
        return {name for names in self.pp.gathered(own) for name in names} - own

    def first(self, do: Callable[[], T]) -> T:
        """Do something on the first rank alone: what it gives or raises there, it gives or raises on all."""
        if not self.many:
            return do()
        told: list[Any] = [_attempt(do) if self.is_first else None]
        dist.broadcast_object_list(told, src=0, group=self.world.group)
        return _result(told[0])

    def together(self, do: Callable[[], T]) -> T:
        """Do something on every rank, which says nothing to the others meanwhile: what one raises, all raise."""
        if not self.many:
            return do()
        own = _attempt(do)
        errors = self.world.gathered(own.error)
        # Its own, with where it comes from, before that of another.
        if error := own.error or next(filter(None, errors), None):
            raise error
        return _result(own)


@dataclass(frozen=True, slots=True)
class _Attempt(Generic[T]):
    """What came of doing something."""

    value: T | None = None
    error: Exception | None = None


def _attempt(do: Callable[[], T]) -> _Attempt[T]:
    try:
        return _Attempt(do())
    except Exception as error:  # whatever it is, the others are waiting to hear of it
        return _Attempt(error=_sendable(error))


def _result(attempt: _Attempt[Any]) -> Any:
    if attempt.error is not None:
        raise attempt.error
    return attempt.value


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an error of somebody else's, made of anything
        return TrainingError(f"{type(error).__name__}: {error}")
    return error

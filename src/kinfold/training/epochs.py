"""Going through the data again and again, a step's batches at a time, from a place that can be returned to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Generic, TypeVar

import torch
from torch.distributed.checkpoint.stateful import Stateful

from kinfold.errors import TrainingError
from kinfold.training.rng import rng_state, set_rng_state

BatchT = TypeVar("BatchT")


class Epochs(Generic[BatchT]):
    """The batches of one epoch after another, in groups.

    A reader with `state_dict` and `load_state_dict` keeps its own place. Any other is begun anew and read up to the
    place, with the random numbers with which the epoch began: that is right for a list, and for a `DataLoader` that
    shuffles.

    Args:
        reader: One pass over it is an epoch.
        group_size: Batches of a step; an epoch may end with a smaller group.
        max_epochs: How many epochs to read; None for no end.
        device: Where random numbers are drawn.
    """

    def __init__(self, reader: Iterable[BatchT], group_size: int, max_epochs: int | None, device: torch.device) -> None:
        self.epoch_nr = 0
        """The epoch of the last group, counted from 1; 0 before the first."""
        self._reader = reader
        self._group_size = group_size
        self._max_epochs = max_epochs
        self._device = device
        self._finished = 0
        self._batches_read = 0  # of the epoch after those that are finished
        self._rng_at_start: dict[str, Any] | None = None

    def groups(self) -> Iterator[list[BatchT]]:
        """The groups from the place on.

        Raises:
            TrainingError: An epoch has no batch.
        """
        while self._max_epochs is None or self._finished < self._max_epochs:
            batches = self._begin()
            while group := list(islice(batches, self._group_size)):
                self.epoch_nr = self._finished + 1
                self._batches_read += len(group)
                if ended := len(group) < self._group_size:
                    self._end()  # before it is given: the reader's state is that of the next epoch by now
                yield group
                if ended:
                    break
            else:
                self._end()

    def state_dict(self) -> dict[str, Any]:
        """The place, after the last group that was given."""
        own = self._reader.state_dict() if isinstance(self._reader, Stateful) else None
        return {
            "epoch_nr": self.epoch_nr,
            "finished": self._finished,
            "batches_read": self._batches_read,
            "reader": own,
            "rng_at_start": self._rng_at_start if own is None else None,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go to a place.

        Raises:
            TrainingError: It is the place of another kind of reader.
        """
        own = state_dict["reader"]
        if isinstance(self._reader, Stateful) != (own is not None):
            kinds = ("has a state", "has none")
            raise TrainingError(
                f"data_reader {kinds[own is not None]}, and that of the checkpoint {kinds[own is None]}.",
                hint="Go on with the data that the run was begun with.",
            )
        if isinstance(self._reader, Stateful):
            self._reader.load_state_dict(own)
        self.epoch_nr, self._finished = state_dict["epoch_nr"], state_dict["finished"]
        self._batches_read, self._rng_at_start = state_dict["batches_read"], state_dict["rng_at_start"]

    def _begin(self) -> Iterator[BatchT]:
        """What is left of the epoch."""
        if not self._batches_read:
            self._rng_at_start = None if isinstance(self._reader, Stateful) else rng_state(self._device)
        if self._rng_at_start is None or not self._batches_read:
            return iter(self._reader)
        now = rng_state(self._device)
        set_rng_state(self._rng_at_start, self._device)
        batches = iter(self._reader)
        read = sum(1 for _ in islice(batches, self._batches_read))
        set_rng_state(now, self._device)
        if read < self._batches_read:
            raise TrainingError(f"data_reader gives {read} batches, of which {self._batches_read} were read already.")
        return batches

    def _end(self) -> None:
        if not self._batches_read:
            raise TrainingError(
                f"data_reader gave no batch in epoch {self._finished + 1}.",
                hint="It is iterated anew in each epoch: give it a list or a BatchReader, not an iterator.",
            )
        self._finished, self._batches_read = self._finished + 1, 0

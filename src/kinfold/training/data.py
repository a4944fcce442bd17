"""Batches of a data set, in an order that depends on the seed and the epoch alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from kinfold.errors import TrainingError
from kinfold.parallel.gangs import Gang

SampleT = TypeVar("SampleT")
BatchT = TypeVar("BatchT")


@dataclass(frozen=True, slots=True)
class Uncounted(Generic[BatchT]):
    """A batch that a rank has where there is nothing left for it: it computes as the others do, and it counts nothing.

    Attributes:
        batch: One that another rank has, too.
    """

    batch: BatchT


class BatchReader(Generic[BatchT]):
    """One pass over it is an epoch. Its place is kept, so that it goes on in the middle of an epoch.

    torch's `DataLoader` reads, with an order of our own: what lies before the place is not read again. The ranks of a
    gang share each batch, so that batches and places are the same whatever their number. In a last batch of fewer
    samples than ranks, those that get none are given an `Uncounted` batch.

    Args:
        dataset: Samples by their indices, with a length: a list, or one of torch's.
        batch_size: Samples a batch, over all ranks.
        collate: Makes a batch of a list of samples.
        shuffle: Whether each epoch has an order of its own.
        seed: What the orders depend on, with the number of the epoch.
        drop_last: Whether to leave out a last batch that is smaller than the others.
        num_workers: Processes that read ahead; 0 reads in this one.
        gang: The ranks that share each batch; None where there is one.

    Attributes:
        num_shares: How many shares a batch has.

    Raises:
        TrainingError: Lists what is wrong with the arguments.
    """

    def __init__(
        self,
        dataset: Dataset[SampleT] | Sequence[SampleT],
        batch_size: int,
        collate: Callable[[list[SampleT]], BatchT],
        *,
        shuffle: bool = True,
        seed: int = 2,
        drop_last: bool = False,
        num_workers: int = 0,
        gang: Gang | None = None,
    ) -> None:
        size = len(dataset) if isinstance(dataset, Sized) else 0
        self._share, self.num_shares = (0, 1) if gang is None else (gang.rank, gang.size)
        _check(size, batch_size, drop_last, self.num_shares)
        self._dataset: Any = dataset  # torch's class has no length
        self._collate = collate
        self._num_workers = num_workers
        self._order = {
            "samples": size, "batch_size": batch_size, "shuffle": shuffle, "seed": seed, "drop_last": drop_last,
        }  # fmt: skip
        self._epoch = 0
        self._position = 0

    def __len__(self) -> int:
        """The number of batches of an epoch."""
        size, batch_size = self._order["samples"], self._order["batch_size"]
        return size // batch_size if self._order["drop_last"] else -(-size // batch_size)

    def __iter__(self) -> Iterator[BatchT]:
        """The batches that are left of an epoch, or this rank's share of each; then the next epoch begins."""
        random_numbers = self._random_numbers()
        batches = self._batches(random_numbers)[self._position :]
        shares = [batch[self._share :: self.num_shares] for batch in batches]
        loader = DataLoader(
            self._dataset,
            batch_sampler=[share or batch[:1] for share, batch in zip(shares, batches, strict=True)],
            collate_fn=self._collate,
            num_workers=self._num_workers,
            # Its own, or else it would take a seed from torch's numbers, once more in a run that was resumed.
            generator=random_numbers,
        )
        for share, batch in zip(shares, loader, strict=True):
            self._position += 1
            uncounted: Any = Uncounted(batch)  # which only a trainer on several ranks meets
            yield batch if share else uncounted
        self._epoch, self._position = self._epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """The place, after the last batch that was given."""
        return {"epoch": self._epoch, "position": self._position, "order": dict(self._order)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go to a place.

        Raises:
            TrainingError: It is a place in another order; lists the differences.
        """
        before = state_dict["order"]
        faults = [
            f"{name} was {before.get(name)}, and is {value}"
            for name, value in self._order.items()
            if before.get(name) != value
        ]
        if faults:
            raise TrainingError("The data cannot be read on where they were left:", faults=faults)
        self._epoch, self._position = state_dict["epoch"], state_dict["position"]

    def _batches(self, random_numbers: torch.Generator) -> list[list[int]]:
        """The indices of the samples of each batch of this epoch."""
        size, batch_size = self._order["samples"], self._order["batch_size"]
        indices = torch.randperm(size, generator=random_numbers) if self._order["shuffle"] else torch.arange(size)
        return [part.tolist() for part in indices.split(batch_size)][: len(self)]

    def _random_numbers(self) -> torch.Generator:
        # torch's generator heeds 32 bits of a seed, so that the two are mixed first.
        mixed = random.Random(f"{self._order['seed']} {self._epoch}").getrandbits(32)
        return torch.Generator().manual_seed(mixed)


def _check(size: int, batch_size: int, drop_last: bool, num_shares: int) -> None:
    faults = []
    if size == 0:
        faults.append("dataset has no samples, or no length")
    if batch_size < 1:
        faults.append(f"batch_size = {batch_size}: must be 1 or more")
    elif batch_size < num_shares:
        faults.append(f"batch_size = {batch_size}: must be {num_shares} or more, a sample for each of as many ranks")
    if drop_last and 0 < size < batch_size:
        faults.append(f"drop_last leaves nothing: {size} samples are less than one batch of {batch_size}")
    if faults:
        raise TrainingError("There are no batches to read:", faults=faults)

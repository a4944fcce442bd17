"""The losses of batches, and what they are the sum or the mean over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from kinfold.errors import TrainingError
from kinfold.training.data import Uncounted
from kinfold.training.ranks import Ranks
from kinfold.training.unit import TrainUnit

BatchT = TypeVar("BatchT")
Precision = Callable[[], AbstractContextManager[object]]
"""The dtype in which operations are computed, entered around the forward pass."""


@dataclass(frozen=True, slots=True)
class BatchLoss:
    """The loss of a batch, or of this rank's share of it.

    Attributes:
        value: The loss, a scalar.
        num_targets: The targets that it is the sum over; None if it is a mean.
        counts: Whether the batch counts.
    """

    value: Tensor
    num_targets: int | None
    counts: bool = True


def counted(losses: Iterable[BatchLoss]) -> list[int | None]:
    """The numbers of targets of those that count."""
    return [loss.num_targets for loss in losses if loss.counts]


@dataclass(frozen=True, slots=True)
class Count:
    """What losses are over, on all ranks.

    Attributes:
        targets: The targets of those that are sums.
        sums: How many are.
        means: How many are means.
    """

    targets: int
    sums: int
    means: int

    @classmethod
    def of(cls, counted: Sequence[int | None], ranks: Ranks) -> Count:
        """Count them; `counted` are the numbers of targets of this rank's batches that count."""
        targets = [number for number in counted if number is not None]
        own = (sum(targets), len(targets), len(counted) - len(targets))
        return cls(*map(int, ranks.summed(map(ranks.once, own))))

    @property
    def weight(self) -> int:
        """What the sum of the losses is divided by to have the mean."""
        return self.targets if self.sums else self.means

    @property
    def num_targets(self) -> int | None:
        """The targets; None if losses are means."""
        return self.targets if self.sums else None

    def check(self, counted: Sequence[int | None], place: str) -> None:
        """Raise a `TrainingError` if there is no target, or only some losses are means."""
        if self.sums and self.means:
            raise TrainingError(f"{place}: the losses of some batches are sums, and of others means: {counted}.")
        if not self.weight:
            raise TrainingError(f"{place}: there is nothing to predict: no batch has a target.")


def forward(unit: TrainUnit[BatchT], batch: BatchT | Uncounted[BatchT], place: str, precision: Precision) -> BatchLoss:
    """The loss of a batch, with its number of targets.

    Raises:
        TrainingError: They are not what a unit is to give.
    """
    counts = not isinstance(batch, Uncounted)
    given: Any = batch if counts else batch.batch
    with precision():
        loss, num_targets = unit(given)
    faults = []
    if not isinstance(loss, Tensor) or loss.dim():
        shown = tuple(loss.shape) if isinstance(loss, Tensor) else repr(loss)
        faults.append(f"the loss is {shown}: must be a scalar tensor")
    if num_targets is not None and (type(num_targets) is not int or num_targets < 0):
        faults.append(f"the number of targets is {num_targets!r}: must be an int, or None if the loss is a mean")
    if faults:
        raise TrainingError(f"{place}: {type(unit).__name__} gave no loss with its number of targets:", faults=faults)
    return BatchLoss(loss if counts else loss * 0, num_targets, counts)

"""What is trained: a model, and how a batch becomes a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar, runtime_checkable

from torch import Tensor, nn

BatchT = TypeVar("BatchT")
BatchT_contra = TypeVar("BatchT_contra", contravariant=True)


class TrainUnit(Protocol[BatchT_contra]):
    """What a `Trainer` asks of a unit; `AbstractTrainUnit` is one to derive from."""

    @property
    def model(self) -> nn.Module:
        """The model whose parameters are trained."""
        ...

    def set_step_nr(self, step_nr: int) -> None:
        """Called before the batches of a step, which are counted from 1."""
        ...

    def __call__(self, batch: BatchT_contra, /) -> tuple[Tensor, int | None]:
        """The loss of a batch, a scalar, and the number of targets it is the sum over; None if it is a mean."""
        ...


@runtime_checkable
class StagedUnit(Protocol[BatchT_contra]):
    """What a `Trainer` asks besides of a unit whose model is one stage of several: gradients, of its own schedule."""

    def add_gradient(
        self, batch: BatchT_contra, divisor: Callable[[int], float], /, *, counts: bool = True
    ) -> tuple[Tensor, int]:
        """Add the gradient of a batch's loss to the parameters of all stages, divided.

        Args:
            batch: The batch, on every stage the same.
            divisor: Called with the number of its targets; what the loss is divided by.
            counts: Whether the batch counts; if not, its gradient is zero.

        Returns:
            The loss, not divided, and the number of targets.
        """
        ...


class AbstractTrainUnit(ABC, Generic[BatchT]):
    """A unit that holds its model.

    Args:
        model: The model whose parameters are trained.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    @property
    def model(self) -> nn.Module:
        """The model whose parameters are trained."""
        return self._model

    def set_step_nr(self, step_nr: int) -> None:
        """Called before the batches of a step, which are counted from 1; does nothing here."""

    @abstractmethod
    def __call__(self, batch: BatchT, /) -> tuple[Tensor, int | None]:
        """The loss of a batch.

        Returns:
            The sum of the losses of all targets, a scalar, and the number of targets. Batches that make one step may
            then have different numbers of targets: each target counts the same. Or a mean, and None: each batch
            counts the same.
        """

"""What is trained: a model, and how a batch becomes a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, Protocol, TypeVar

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

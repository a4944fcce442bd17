"""The gradient of a step: that of the mean over all targets of its batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from kinfold.errors import TrainingError
from kinfold.training.unit import TrainUnit

BatchT = TypeVar("BatchT")
Precision = Callable[[], AbstractContextManager[object]]
"""The dtype in which operations are computed, entered around the forward pass."""


@dataclass(frozen=True)
class Losses:
    """The losses of the batches of a step.

    Attributes:
        values: The loss of each.
        num_targets: The targets that all are the sum over; None if they are means.
    """

    values: list[Tensor]
    num_targets: int | None

    @property
    def weight(self) -> int:
        """What their sum is divided by to have the mean."""
        return len(self.values) if self.num_targets is None else self.num_targets


def backward(unit: TrainUnit[BatchT], batches: Iterable[BatchT], step_nr: int, precision: Precision) -> Losses:
    """Leave the gradient of the mean over all targets of all batches in the parameters.

    Raises:
        TrainingError: There is no target, or losses are sums and means.
    """
    values: list[Tensor] = []
    counts: list[int | None] = []
    divisor = 1
    for batch in batches:
        loss, num_targets = forward(unit, batch, f"Step {step_nr}", precision)
        # A single batch needs no second pass over the gradients.
        divisor = divisor if values else num_targets or 1
        (loss / divisor).backward()
        values.append(loss.detach())
        counts.append(num_targets)
    losses = Losses(values, total(counts, f"Step {step_nr}"))
    if losses.weight != divisor:
        for gradient in gradients(unit.model):
            gradient.mul_(divisor / losses.weight)
    return losses


def forward(unit: TrainUnit[BatchT], batch: BatchT, place: str, precision: Precision) -> tuple[Tensor, int | None]:
    """The loss of a batch, and its number of targets.

    Raises:
        TrainingError: They are not what a unit is to give.
    """
    with precision():
        loss, num_targets = unit(batch)
    faults = []
    if not isinstance(loss, Tensor) or loss.dim():
        shown = tuple(loss.shape) if isinstance(loss, Tensor) else repr(loss)
        faults.append(f"the loss is {shown}: must be a scalar tensor")
    if num_targets is not None and (type(num_targets) is not int or num_targets < 0):
        faults.append(f"the number of targets is {num_targets!r}: must be an int, or None if the loss is a mean")
    if faults:
        raise TrainingError(f"{place}: {type(unit).__name__} gave no loss with its number of targets:", faults=faults)
    return loss, num_targets


def total(counts: list[int | None], place: str) -> int | None:
    """All targets of batches; None if their losses are means.

    Raises:
        TrainingError: There is none, or only some of the losses are means.
    """
    known = [count for count in counts if count is not None]
    if not known:
        return None
    if len(known) < len(counts):
        raise TrainingError(f"{place}: the losses of some batches are sums, and of others means: {counts}.")
    if not sum(known):
        raise TrainingError(f"{place}: there is nothing to predict: no batch has a target.")
    return sum(known)


def clip(model: nn.Module, losses: Losses, max_norm: float | None, step_nr: int) -> tuple[float, float]:
    """Scale the gradients down to a norm, if it is larger; the two halves of torch's `clip_grad_norm_`.

    Returns:
        The sum of the losses, and the norm as it was.

    Raises:
        TrainingError: A loss or a gradient is not finite; they are left as they are.
    """
    grads = gradients(model)
    norm = get_total_norm(grads)
    # Read at once: each reading waits for the device.
    *numbers, norm_read = torch.stack([*losses.values, norm]).tolist()
    if not all(map(math.isfinite, [*numbers, norm_read])):
        raise _not_finite(model, numbers, norm_read, step_nr)
    if max_norm is not None:
        clip_grads_with_norm_(list(model.parameters()), max_norm, norm)
    return sum(numbers), norm_read


def gradients(model: nn.Module) -> list[Tensor]:
    """The gradients of all parameters that have one."""
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def _not_finite(model: nn.Module, losses: list[float], norm: float, step_nr: int) -> TrainingError:
    hint = "The step was not taken. A lower learning rate, or clipping (max_gradient_norm), often helps."
    for number, loss in enumerate(losses, start=1):
        if not math.isfinite(loss):
            which = f" of batch {number} of {len(losses)}" if len(losses) > 1 else ""
            return TrainingError(f"Step {step_nr}: the loss{which} is {loss}.", hint=hint)
    faults = [
        f"the gradient of {name}"
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not bool(parameter.grad.isfinite().all())
    ]
    return TrainingError(f"Step {step_nr}: the gradient norm is {norm}.", faults=faults, hint=hint)

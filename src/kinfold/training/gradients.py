"""The gradient of a step: that of the mean over all targets of its batches, of all ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from kinfold.errors import TrainingError
from kinfold.parallel.local import local
from kinfold.parallel.stages import shared_weight
from kinfold.parallel.styles import placed_gradient
from kinfold.training.data import Uncounted
from kinfold.training.losses import BatchLoss, Count, Precision, counted, forward
from kinfold.training.ranks import Ranks
from kinfold.training.unit import StagedUnit, TrainUnit

BatchT = TypeVar("BatchT")


@dataclass(frozen=True, slots=True)
class StepLosses:
    """The losses of the batches of a step.

    Attributes:
        values: Of each batch; of this rank's shares.
        count: What they are over, on all ranks.
    """

    values: list[Tensor]
    count: Count


def add_gradient(
    unit: TrainUnit[BatchT],
    batch: BatchT,
    place: str,
    precision: Precision,
    divisor: Callable[[int | None], float],
) -> BatchLoss:
    """Add the gradient of a batch's loss to the parameters, divided by what `divisor` gives for its targets."""
    if isinstance(unit, StagedUnit):
        counts = not isinstance(batch, Uncounted)
        given: Any = batch if counts else batch.batch
        with precision():
            value, num_targets = unit.add_gradient(given, divisor, counts=counts)
        return BatchLoss(value, num_targets, counts)
    loss = forward(unit, batch, place, precision)
    (loss.value / divisor(loss.num_targets)).backward()
    return replace(loss, value=loss.value.detach())


def backward(
    unit: TrainUnit[BatchT], batches: Iterable[BatchT], step_nr: int, precision: Precision, ranks: Ranks
) -> StepLosses:
    """Leave the gradient of the mean over all targets of all batches in the parameters.

    Raises:
        TrainingError: There is no target, or losses are sums and means.
    """
    place = f"Step {step_nr}"
    losses: list[BatchLoss] = []
    count = Count(0, 0, 0)

    def divisor(num_targets: int | None, *, counts: bool) -> float:
        """What the first batch is over: a single one needs no second pass over the gradients."""
        nonlocal count
        if not losses:
            count = Count.of([num_targets] if counts else [], ranks)
        # FSDP's gradients are means over the ranks that share the data, and a sum is wanted.
        return (count.weight or 1) / ranks.dp.size

    for batch in batches:
        divide = partial(divisor, counts=not isinstance(batch, Uncounted))
        losses.append(add_gradient(unit, batch, place, precision, divide))
    divided_by = count.weight or 1
    if len(losses) > 1:
        count = Count.of(counted(losses), ranks)
    count.check(counted(losses), place)
    if count.weight != divided_by:
        for gradient in gradients(unit.model):
            gradient.mul_(divided_by / count.weight)
    return StepLosses([loss.value for loss in losses], count)


def clip(
    model: nn.Module, losses: StepLosses, max_norm: float | None, step_nr: int, ranks: Ranks
) -> tuple[float, float]:
    """Scale the gradients down to a norm, if it is larger; the two halves of torch's `clip_grad_norm_`.

    Returns:
        The sum of the losses, and the norm as it was, both over all ranks.

    Raises:
        TrainingError: A loss or a gradient is not finite; they are left as they are. All ranks raise it.
    """
    norms = _norms(model)
    # Read at once: each reading waits for the device.
    read = torch.stack([*losses.values, *norms.values()]).tolist()
    numbers, parts = read[: len(losses.values)], read[len(losses.values) :]
    norm = next(iter(norms.values()))
    norm_read = parts[0]
    if ranks.many:
        squares = [part * part / copies for part, copies in zip(parts, norms, strict=True)]
        *numbers, square = ranks.summed([*map(ranks.once, numbers), sum(squares)])
        norm_read = math.sqrt(square)
        norm = norm.new_tensor(norm_read)
    if not all(map(math.isfinite, [*numbers, norm_read])):
        raise _not_finite(model, numbers, norm_read, step_nr, ranks)
    if max_norm is not None:
        clip_grads_with_norm_(list(model.parameters()), max_norm, norm)
    return sum(numbers), norm_read


def gradients(model: nn.Module) -> list[Tensor]:
    """The gradients of all parameters that have one."""
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def _norms(model: nn.Module) -> dict[int, Tensor]:
    """The norms of this rank's parts of gradients, by how many ranks have the same part.

    By parts, since the norm that torch gives of a model that is spread costs a message for each gradient.
    """
    parts: dict[int, list[Tensor]] = {}
    shared = shared_weight(model)
    for parameter in model.parameters():
        if (gradient := placed_gradient(parameter)) is not None:
            copies = _copies(gradient) * (2 if parameter is shared else 1)
            parts.setdefault(copies, []).append(local(gradient))
    return {copies: get_total_norm(own) for copies, own in parts.items()} or {1: get_total_norm([])}


def _copies(gradient: Tensor) -> int:
    if not isinstance(gradient, DTensor):
        return 1
    sizes = zip(gradient.device_mesh.shape, gradient.placements, strict=True)
    return math.prod(size for size, placement in sizes if placement.is_replicate())


def _not_finite(model: nn.Module, losses: list[float], norm: float, step_nr: int, ranks: Ranks) -> TrainingError:
    hint = "The step was not taken. A lower learning rate, or clipping (max_gradient_norm), often helps."
    for number, loss in enumerate(losses, start=1):
        if not math.isfinite(loss):
            which = f" of batch {number} of {len(losses)}" if len(losses) > 1 else ""
            return TrainingError(f"Step {step_nr}: the loss{which} is {loss}.", hint=hint)
    own = {
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not bool(local(parameter.grad).isfinite().all())
    }
    found = set().union(*ranks.world.gathered(own))
    faults = [f"the gradient of {name}" for name, _ in model.named_parameters() if name in found]
    return TrainingError(f"Step {step_nr}: the gradient norm is {norm}.", faults=faults, hint=hint)

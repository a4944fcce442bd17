"""Measuring a loss without training."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypeVar

import torch

from kinfold.errors import TrainingError
from kinfold.training.losses import Count, Precision, counted, forward
from kinfold.training.ranks import Ranks
from kinfold.training.unit import TrainUnit

BatchT = TypeVar("BatchT")


def mean_loss(
    unit: TrainUnit[BatchT], batches: Iterable[BatchT], place: str, precision: Precision, ranks: Ranks
) -> float:
    """The mean over all targets of all batches, or over batches if losses are means.

    Args:
        unit: Makes a loss of a batch; its model is in evaluation mode.
        batches: Already on its device.
        place: What is done, for messages.
        precision: The dtype to compute in.
        ranks: Those that share the batches.

    Raises:
        TrainingError: There is no batch or no target, or the mean is not finite.
    """
    # What FSDP gathers it keeps room for, and it gathers again for gradients, in which inference mode has no part.
    with torch.no_grad() if ranks.many else torch.inference_mode():
        losses = [forward(unit, batch, place, precision) for batch in batches]
    if not losses:
        raise TrainingError(f"{place}: valid_data_reader gave no batch.")
    count = Count.of(counted(losses), ranks)
    count.check(counted(losses), place)
    own = sum(torch.stack([loss.value for loss in losses]).tolist())
    mean = ranks.summed([ranks.once(own)])[0] / count.weight
    if not math.isfinite(mean):
        raise TrainingError(f"{place}: the loss is {mean}.")
    return mean

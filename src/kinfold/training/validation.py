"""Measuring a loss without training."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypeVar

import torch

from kinfold.errors import TrainingError
from kinfold.training.gradients import Precision, forward, total
from kinfold.training.unit import TrainUnit

BatchT = TypeVar("BatchT")


def mean_loss(unit: TrainUnit[BatchT], batches: Iterable[BatchT], place: str, precision: Precision) -> float:
    """The mean over all targets of all batches, or over batches if losses are means.

    Args:
        unit: Makes a loss of a batch; its model is in evaluation mode.
        batches: Already on its device.
        place: What is done, for messages.
        precision: The dtype to compute in.

    Raises:
        TrainingError: There is no batch or no target, or the mean is not finite.
    """
    with torch.inference_mode():
        pairs = [forward(unit, batch, place, precision) for batch in batches]
    if not pairs:
        raise TrainingError(f"{place}: valid_data_reader gave no batch.")
    weight = total([count for _, count in pairs], place) or len(pairs)
    mean = sum(torch.stack([loss for loss, _ in pairs]).tolist()) / weight
    if not math.isfinite(mean):
        raise TrainingError(f"{place}: the loss is {mean}.")
    return mean

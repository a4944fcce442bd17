"""What layers are put together with, besides attention, feed-forward networks and norms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from kinfold.errors import ConfigError

T = TypeVar("T")


def in_turns(pattern: Sequence[T], layer: int) -> T:
    """What a layer gets of a pattern that the layers go through in turns.

    `in_turns((4096, None), layer)` is 4096 for layers 0, 2, 4 and None for layers 1, 3, 5.

    Raises:
        ConfigError: The pattern is empty.
    """
    if not pattern:
        raise ConfigError(f"Layer {layer} gets nothing of an empty pattern: it must hold one value or more.")
    return pattern[layer % len(pattern)]


class LearnedScale(nn.Module):
    """Multiplies each dimension by a number that is learned, as the residuals of Doge.

    Args:
        dim: The size of the last dimension.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weight to ones."""
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to (..., dim)."""
        return x * self.weight

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}"

"""Feed-forward networks."""

from __future__ import annotations

import math

from torch import Tensor, nn


class FeedForward(nn.Module):
    """Two projections with an activation between (Vaswani et al. 2017, section 3.3).

    Args:
        inner_proj: (..., D) to (..., inner).
        output_proj: (..., inner) to (..., D).
        activation: Between them.
    """

    def __init__(self, *, inner_proj: nn.Linear, output_proj: nn.Linear, activation: nn.Module) -> None:
        super().__init__()
        self.inner_proj = inner_proj
        self.output_proj = output_proj
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        return self.output_proj(self.activation(self.inner_proj(x)))


class GatedFeedForward(nn.Module):
    """A feed-forward network whose inner values are gated by another projection (Shazeer 2020, section 2).

    Args:
        gate_proj: (..., D) to (..., inner), before the activation.
        inner_proj: (..., D) to (..., inner).
        output_proj: (..., inner) to (..., D).
        activation: Of the gate.
    """

    def __init__(
        self, *, gate_proj: nn.Linear, inner_proj: nn.Linear, output_proj: nn.Linear, activation: nn.Module
    ) -> None:
        super().__init__()
        self.gate_proj = gate_proj
        self.inner_proj = inner_proj
        self.output_proj = output_proj
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        return self.output_proj(self.activation(self.gate_proj(x)) * self.inner_proj(x))


def scaled_inner_dim(inner_dim: int, *, multiplier: float = 1.0, to_multiple: int = 1) -> int:
    """An inner width as the code published with Llama works it out: multiplied, then rounded up to a multiple.

    `scaled_inner_dim(10922, multiplier=1.3, to_multiple=1024)` is 14336, the width of Llama 3 8B.
    """
    return math.ceil(int(inner_dim * multiplier) / to_multiple) * to_multiple

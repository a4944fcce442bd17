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
        inner_norm: A norm of the inner values, before `output_proj`.
    """

    def __init__(
        self,
        *,
        inner_proj: nn.Linear,
        output_proj: nn.Linear,
        activation: nn.Module,
        inner_norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.inner_proj = inner_proj
        self.output_proj = output_proj
        self.activation = activation
        self.inner_norm = inner_norm

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        inner = self.activation(self.inner_proj(x))
        return self.output_proj(inner if self.inner_norm is None else self.inner_norm(inner))


class GatedFeedForward(nn.Module):
    """A feed-forward network whose inner values are gated by another projection (Shazeer 2020, section 2).

    Args:
        gate_proj: (..., D) to (..., inner), before the activation.
        inner_proj: (..., D) to (..., inner).
        output_proj: (..., inner) to (..., D).
        activation: Of the gate.
        inner_norm: A norm of the gated inner values, before `output_proj` (BitNet).
    """

    def __init__(
        self,
        *,
        gate_proj: nn.Linear,
        inner_proj: nn.Linear,
        output_proj: nn.Linear,
        activation: nn.Module,
        inner_norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.gate_proj = gate_proj
        self.inner_proj = inner_proj
        self.output_proj = output_proj
        self.activation = activation
        self.inner_norm = inner_norm

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        inner = self.activation(self.gate_proj(x)) * self.inner_proj(x)
        return self.output_proj(inner if self.inner_norm is None else self.inner_norm(inner))


def scaled_inner_dim(inner_dim: int, *, multiplier: float = 1.0, to_multiple: int = 1) -> int:
    """An inner width as the code published with Llama works it out: multiplied, then rounded up to a multiple.

    `scaled_inner_dim(10922, multiplier=1.3, to_multiple=1024)` is 14336, the width of Llama 3 8B.
    """
    return math.ceil(int(inner_dim * multiplier) / to_multiple) * to_multiple

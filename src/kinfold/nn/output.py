"""What stands around the output projection."""

from __future__ import annotations

from torch import Tensor, nn


class Transform(nn.Module):
    """A projection, an activation and a norm before the logits (as in the code published with BERT).

    Args:
        proj: (..., D) to (..., D).
        activation: Of what it gives.
        norm: Last.
    """

    def __init__(self, proj: nn.Linear, activation: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.proj = proj
        self.activation = activation
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        return self.norm(self.activation(self.proj(x)))


def soft_cap(x: Tensor, cap: float) -> Tensor:
    """Values between -cap and cap: cap * tanh(x / cap) (Gemma 2, Riviere et al. 2024, section 2)."""
    return cap * (x / cap).tanh()

"""Activations that torch does not have."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, softplus


class ReLUSquared(nn.Module):
    """The square of a rectified value (So et al. 2021, Primer, section 3)."""

    def forward(self, x: Tensor) -> Tensor:
        """(...) to (...)."""
        return relu(x).square()


class QuickGELU(nn.Module):
    """GELU by a sigmoid (Hendrycks and Gimpel 2016, section 2)."""

    def forward(self, x: Tensor) -> Tensor:
        """(...) to (...)."""
        return x * torch.sigmoid(1.702 * x)


class XIELU(nn.Module):
    """xIELU (Huang and Schlag 2024): quadratic above zero, exponential below, each with a weight that is learned.

    The weights are softplus of `alpha_p` and, plus `beta`, of `alpha_n`, both (1,). `beta` and `eps`, 0-d, are not
    learned, but checkpoints hold them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alpha_p = nn.Parameter(torch.empty(1))
        self.alpha_n = nn.Parameter(torch.empty(1))
        self.beta = nn.Parameter(torch.empty(()), requires_grad=False)
        self.eps = nn.Parameter(torch.empty(()), requires_grad=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set both weights to 0.8, beta to 0.5 and eps to -1e-6."""
        nn.init.constant_(self.alpha_p, math.log(math.expm1(0.8)))
        nn.init.constant_(self.alpha_n, math.log(math.expm1(0.8 - 0.5)))
        nn.init.constant_(self.beta, 0.5)
        nn.init.constant_(self.eps, -1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(...) to (...)."""
        above = softplus(self.alpha_p) * x * x
        below = (self.beta + softplus(self.alpha_n)) * (torch.expm1(torch.minimum(x, self.eps)) - x)
        return torch.where(x > 0, above, below) + self.beta * x

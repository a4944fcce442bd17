"""Norms over the last dimension."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm


class RMSNorm(nn.Module):
    """Root mean square norm (Zhang and Sennrich 2019, section 3), computed in float32 or wider.

    The result is cast back before it is multiplied by the weight, as in the code published with Llama.

    Args:
        dim: The size of the last dimension.
        eps: What is added to the mean square.
    """

    def __init__(self, dim: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weight to ones."""
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to (..., dim), in the dtype of `x`."""
        return self.weight * rms_norm(x, self.weight.shape, eps=self.eps)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}"

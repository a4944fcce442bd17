"""What has one number for each query head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kinfold.errors import ConfigError


class _PerHead(nn.Module):
    """A weight of (num_heads,).

    Args:
        num_heads: The number of query heads.

    Raises:
        ConfigError: It is not above 0.
    """

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        if num_heads <= 0:
            raise ConfigError(f"{type(self).__name__} cannot be for {num_heads} heads: there must be more than 0.")
        self.num_heads = num_heads
        self.weight = nn.Parameter(torch.empty(num_heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weight to zeros."""
        nn.init.zeros_(self.weight)

    def extra_repr(self) -> str:
        return f"{self.num_heads}"


class Sinks(_PerHead):
    """A score for each head that takes part in the softmax and has no value, so that a head may attend to nothing.

    As in the code published with gpt-oss (Agarwal et al. 2025, section 2.3), after Xiao et al. 2023.
    """

    def forward(self, scores: Tensor) -> Tensor:
        """(B, H, S, T) to (B, H, S, T + 1), in the dtype of `scores`."""
        sinks = self.weight.to(scores.dtype)[:, None, None]
        return torch.cat([scores, sinks.expand(*scores.shape[:-1], 1)], dim=-1)


class HeadBias(_PerHead):
    """A bias for each head, on the logits of its gate."""

    def forward(self, logits: Tensor) -> Tensor:
        """(B, S, H, 1 or head_dim) to the same."""
        return logits + self.weight[:, None]

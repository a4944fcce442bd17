"""Attention that keeps to the keys whose values ask for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus


class DynamicMask(nn.Module):
    """Adds to the scores of a key what its values say, and leaves the lowest out (Shi and Wu 2024, section 3.1; Doge).

    Args:
        proj: From the values of a token, (..., key and value heads * head_dim), to a number for each of these heads.
        keep: How many keys a query sees at most: those to which the most is added.
    """

    def __init__(self, proj: nn.Linear, *, keep: int) -> None:
        super().__init__()
        self.proj = proj
        self.keep = keep
        self.rate = nn.Parameter(torch.empty(proj.out_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Begin with the same for all keys."""
        nn.init.zeros_(self.rate)

    def forward(self, v: Tensor, sees: Tensor | None, num_heads: int) -> Tensor:
        """What is added to the scores.

        Args:
            v: (B, key and value heads, T, head_dim), of all tokens so far.
            sees: Bool, to (B, 1, S, T): which keys a query sees; None for all.
            num_heads: The number of query heads.

        Returns:
            (B, query heads, S, T); minus infinity for what a query does not see.
        """
        steps = softplus(self.proj(v.transpose(1, 2).flatten(2)))  # (B, T, key and value heads)
        scores = (self.rate * steps).exp().transpose(1, 2)[:, :, None]
        if sees is not None:
            scores = torch.where(sees, scores, float("-inf"))
        if scores.shape[-1] > self.keep:
            lowest = scores.topk(self.keep, dim=-1).values[..., -1:]
            scores = scores.masked_fill(scores < lowest, float("-inf"))
        return scores.repeat_interleave(num_heads // v.shape[1], dim=1)

    def extra_repr(self) -> str:
        return f"keep={self.keep}"

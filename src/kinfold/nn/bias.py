"""Positions as a bias on the scores of attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kinfold.errors import ConfigError
from kinfold.nn.state import PassState


class Alibi(nn.Module):
    """Takes from the score of a key what grows with its distance, each head at a slope of its own (Press et al. 2022).

    Slopes fall geometrically from head to head (section 3). Where the number of heads is no power of two they are
    those of the power below, and then every other one of the power above, as in the authors' code.

    Args:
        num_heads: The number of query heads.
        max_bias: The last slope of a power of two is 2 ** -max_bias.
        scale: What the slopes are multiplied by.

    Raises:
        ConfigError: A value is not above 0.
    """

    def __init__(self, num_heads: int, *, max_bias: float = 8.0, scale: float = 1.0) -> None:
        super().__init__()
        values = {"num_heads": num_heads, "max_bias": max_bias, "scale": scale}
        if faults := [f"{name} = {value}: must be above 0" for name, value in values.items() if value <= 0]:
            raise ConfigError("This position bias does not fit together:", faults=faults)
        self.num_heads = num_heads
        self.max_bias = max_bias
        self.scale = scale
        self._part = (0, 1)

    def take_part(self, rank: int, size: int) -> None:
        """Be the bias of this rank's heads alone, where ranks share them."""
        self._part = (rank, size)

    def forward(self, state: PassState) -> Tensor:
        """What is added to the scores of a pass: float32, (H, S, T), or (B, H, S, T) where there is padding."""
        queries, keys = state.positions(), state.positions(of_all=True)
        distances = (keys[..., None, :] - queries[..., None]).abs().float()
        slopes = torch.tensor(self._slopes(), dtype=torch.float32, device=distances.device)
        return distances.unsqueeze(-3) * (slopes * -self.scale)[:, None, None]

    def extra_repr(self) -> str:
        return f"{self.num_heads}, max_bias={self.max_bias}, scale={self.scale}"

    def _slopes(self) -> list[float]:
        below = 1 << (self.num_heads.bit_length() - 1)
        steps = [*range(2, 2 * below + 1, 2), *range(1, 2 * below, 2)]
        slopes = [2 ** (-self.max_bias * step / (2 * below)) for step in steps[: self.num_heads]]
        rank, size = self._part
        return slopes[rank * len(slopes) // size : (rank + 1) * len(slopes) // size]

"""Queries that grow with their positions, so that attention to many tokens stays sharp (Nakanishi 2025, section 3)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from kinfold.errors import ConfigError
from kinfold.nn.state import PassState


class QueryScaling(ABC):
    """What queries are multiplied by, by their positions; computed in float32, once a pass for all layers."""

    interval: int
    """How many tokens it takes for queries to grow."""

    def __post_init__(self) -> None:
        if self.interval <= 0:
            raise ConfigError(f"Queries cannot grow every {self.interval} tokens: the interval must be above 0.")

    @abstractmethod
    def factors(self, positions: Tensor) -> Tensor:
        """The factors of positions, int64 (...): float32 (...)."""

    def __call__(self, q: Tensor, state: PassState) -> Tensor:
        """(B, H, S, d) to (B, H, S, d), in the dtype of `q`."""
        return q * state.once((self, q.dtype), lambda: self._of_pass(state).to(q.dtype))

    def _of_pass(self, state: PassState) -> Tensor:
        """(S, 1), or (B, 1, S, 1) where there is padding."""
        factors = self.factors(state.positions())[..., None]
        return factors[:, None] if factors.dim() == 3 else factors


@dataclass(frozen=True, kw_only=True)
class LogQueryScaling(QueryScaling):
    """1 + beta * log(1 + floor(position / interval)), as in the code published with Llama 4 and Ministral 3."""

    beta: float
    """How much the logarithm counts."""

    interval: int
    """After how many tokens queries grow."""

    def factors(self, positions: Tensor) -> Tensor:
        return 1 + self.beta * torch.log(1 + torch.floor(positions / self.interval))


@dataclass(frozen=True, kw_only=True)
class PowerQueryScaling(QueryScaling):
    """(1 + (position + 1) / interval) ** exponent, as in the code published with Beam."""

    exponent: float
    """The power."""

    interval: int
    """The length by which it counts."""

    def factors(self, positions: Tensor) -> Tensor:
        return torch.exp(self.exponent * torch.log1p((positions.float() + 1) / self.interval))

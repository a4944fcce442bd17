"""Absolute positions: a vector for each, which is added to that of its token."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from kinfold.errors import ConfigError, GenerationError
from kinfold.nn.state import PassState


class SinusoidalPositions(nn.Module):
    """Sines and cosines of falling frequencies (Vaswani et al. 2017, section 3.5); no parameters.

    All sines come before all cosines, unlike in the paper. As in the authors' tensor2tensor, in fairseq and in
    M2M-100, the lowest of the dim / 2 frequencies is just 1 / 10000; by the formula of the paper, as in CTRL, it is
    10000 ** (2 / dim) times that.

    Args:
        dim: The width of the model; even, and at least 4.
        start: The number of the first position: 0, or 2 where positions are counted as fairseq does, in which
            padding has the number 1.
        frequencies: Those of "tensor2tensor", or of the "paper".

    Raises:
        ConfigError: The width cannot be halved, the start is negative, or there are no such frequencies.
    """

    def __init__(
        self, dim: int, *, start: int = 0, frequencies: Literal["tensor2tensor", "paper"] = "tensor2tensor"
    ) -> None:
        super().__init__()
        faults = [f"dim = {dim}: must be even and at least 4"] if dim < 4 or dim % 2 else []
        if start < 0:
            faults.append(f"start = {start}: must be 0 or more")
        if frequencies not in ("tensor2tensor", "paper"):
            faults.append(f"frequencies = {frequencies!r}: must be 'tensor2tensor' or 'paper'")
        if faults:
            raise ConfigError("These sinusoidal positions do not fit together:", faults=faults)
        self.dim = dim
        self.start = start
        self.frequencies = frequencies

    def forward(self, state: PassState) -> Tensor:
        """The vectors of the tokens of a pass: float32, (S, dim), or (B, S, dim) where there is padding."""
        positions = state.positions() + self.start
        steps = torch.arange(self.dim // 2, dtype=torch.int64, device=positions.device).float()
        if self.frequencies == "paper":
            frequencies = 1 / 10000 ** (2 * steps / self.dim)
        else:
            frequencies = torch.exp(steps * (-math.log(10000) / (self.dim // 2 - 1)))
        angles = positions[..., None].float() * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def extra_repr(self) -> str:
        return f"{self.dim}, start={self.start}, frequencies={self.frequencies!r}"


class LearnedPositions(nn.Module):
    """A table of vectors that are learned, one for each position (Gehring et al. 2017, section 3.1).

    Args:
        max_seq_len: How many tokens a sequence may have.
        dim: The width of the model.
        start: The number of the first position: 0, or 2 where the table is one of fairseq's or BART's, whose first two
            rows stand for no position.
        init_std: The standard deviation of fresh vectors.
    """

    def __init__(self, max_seq_len: int, dim: int, *, start: int = 0, init_std: float = 0.02) -> None:
        super().__init__()
        self.start = start
        self.init_std = init_std
        self.weight = nn.Parameter(torch.empty(max_seq_len + start, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the vectors anew."""
        nn.init.normal_(self.weight, std=self.init_std)

    def forward(self, state: PassState) -> Tensor:
        """The vectors of the tokens of a pass: (S, dim), or (B, S, dim) where there is padding.

        Raises:
            GenerationError: There are more tokens than positions.
        """
        known = self.weight.shape[0] - self.start
        if state.length > known:
            raise GenerationError(f"A sequence of {state.length} tokens is longer than the {known} learned positions.")
        return embedding(state.positions() + self.start, self.weight)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0] - self.start}, {self.weight.shape[1]}, start={self.start}"

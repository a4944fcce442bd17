"""Rotary positions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kinfold.errors import ConfigError
from kinfold.nn.rope_scaling import RopeScaling, base_frequencies
from kinfold.nn.state import PassState


class Rotary(nn.Module):
    """Turns queries and keys by angles that grow with their positions (RoFormer, Su et al. 2021, section 3.2.2).

    The dimensions that turn together are those of the two halves of a head (as in GPT-NeoX and Hugging Face's
    Llama): dimension i with dimension i + dim / 2. Angles are computed in float32, once a pass for all layers.

    Args:
        dim: How many dimensions of a head turn, the first ones; even.
        theta: The base of the frequencies.
        scaling: How positions beyond the length trained on are reached.
        reversed: They turn the other way round, as in the code published with nanochat.

    Raises:
        ConfigError: The width is odd, or the base is not positive.
    """

    def __init__(
        self, dim: int, *, theta: float = 10000.0, scaling: RopeScaling | None = None, reversed: bool = False
    ) -> None:
        super().__init__()
        faults = []
        if dim <= 0 or dim % 2:
            faults.append(f"dim = {dim}: must be even and above 0")
        if theta <= 0:
            faults.append(f"theta = {theta}: must be above 0")
        if scaling is not None:
            faults += scaling.faults(dim)
        if faults:
            raise ConfigError("These rotary positions do not fit together:", faults=faults)
        self.dim = dim
        self.theta = theta
        self.scaling = scaling
        self.reversed = reversed

    @property
    def changes_with_length(self) -> bool:
        """Whether a longer sequence turns the tokens before it differently too."""
        return self.scaling is not None and self.scaling.changes_with_length

    def forward(self, x: Tensor, state: PassState, *, of_all: bool = False) -> Tensor:
        """Turn heads by the positions of their tokens.

        Args:
            x: (B, H, S, dim or more).
            state: Of this pass.
            of_all: The tokens are all so far, not those of this pass.

        Returns:
            The same shape, in the dtype of `x`; dimensions after the first `dim` as they were.
        """
        if x.shape[-1] > self.dim:
            turned = self(x[..., : self.dim], state, of_all=of_all)
            return torch.cat([turned, x[..., self.dim :]], dim=-1)
        cos, sin = state.once((self, x.dtype, of_all), lambda: self._tables(state, of_all, x.dtype))
        return x * cos + x.roll(self.dim // 2, dims=-1) * sin  # the halves change places; `sin` has the sign

    def extra_repr(self) -> str:
        way_round = ", reversed=True" if self.reversed else ""
        return f"{self.dim}, theta={self.theta}, scaling={self.scaling}{way_round}"

    def _tables(self, state: PassState, of_all: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines, (S, dim), or (B, 1, S, dim) where there is padding; the first half of sines negated."""
        positions = state.positions(of_all=of_all)
        frequencies, amplitude = self._frequencies(state, positions.device)
        angles = positions[..., None].float() * frequencies
        if angles.dim() == 3:
            angles = angles[:, None]
        cos, sin = angles.cos() * amplitude, angles.sin() * (-amplitude if self.reversed else amplitude)
        return torch.cat([cos, cos], dim=-1).to(dtype), torch.cat([-sin, sin], dim=-1).to(dtype)

    def _frequencies(self, state: PassState, device: torch.device) -> tuple[Tensor, float]:
        """The frequencies, (dim / 2,), or (B, 1, dim / 2) where they differ with the tokens of a row; the amplitude."""
        if self.scaling is None:
            return base_frequencies(self.dim, self.theta, device), 1.0
        lengths = state.token_counts() if self.changes_with_length else None
        if lengths is None:
            return self.scaling.frequencies(self.dim, self.theta, state.length, device)
        rows = [self.scaling.frequencies(self.dim, self.theta, length, device) for length in lengths]
        return torch.stack([frequencies for frequencies, _ in rows])[:, None], rows[0][1]


def kept_keys(
    owner: nn.Module, k: Tensor, state: PassState, position: Rotary | None, place: Callable[..., Tensor] | None = None
) -> Tensor:
    """The keys of all tokens so far, turned, given those of this pass.

    Where a longer sequence turns the tokens before it differently, keys are kept as they come, and all turned anew.

    Args:
        owner: The attention.
        k: (B, H, S, ...), of this pass, before they are turned.
        state: Of this pass.
        position: What turns them; None where nothing does.
        place: What is called in place of `position`, as it is, where more is to be done.

    Returns:
        (B, H, T, ...).
    """
    place = place or position
    if place is None:
        return state.keep(owner, "keys", k)
    if position is not None and position.changes_with_length:
        return place(state.keep(owner, "keys", k), state, of_all=True)
    return state.keep(owner, "keys", place(k, state))

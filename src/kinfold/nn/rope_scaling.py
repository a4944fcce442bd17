"""The published ways to stretch rotary positions beyond the length trained on.

Each gives the frequencies, float32, (dim / 2,), and the amplitude that cosines and sines are multiplied by.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields

import torch
from torch import Tensor


def base_frequencies(dim: int, theta: float, device: torch.device) -> Tensor:
    """theta ** (-2i / dim) for i < dim / 2, float32 (RoFormer, Su et al. 2021, section 3.2.2)."""
    exponents = torch.arange(0, dim, 2, dtype=torch.int64, device=device).float() / dim
    return 1.0 / theta**exponents


class RopeScaling(ABC):
    """A way to stretch rotary positions."""

    changes_with_length = False
    """Whether the frequencies depend on the length of the sequence."""

    @abstractmethod
    def frequencies(self, dim: int, theta: float, seq_len: int, device: torch.device) -> tuple[Tensor, float]:
        """The frequencies, float32, (dim / 2,), and the amplitude, for a sequence of `seq_len` tokens."""

    def faults(self, dim: int) -> list[str]:
        """What is wrong with the values, for heads of the width `dim`."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))  # pyright: ignore
        return [
            f"{type(self).__name__}.{name} = {value}: must be above 0"
            for name, value in values
            if isinstance(value, int | float) and not isinstance(value, bool) and value <= 0
        ]


@dataclass(frozen=True, kw_only=True)
class LinearScaling(RopeScaling):
    """All positions divided by a factor (Chen et al. 2023, Position Interpolation, section 2.3)."""

    factor: float
    """By how much the length grows."""

    def frequencies(self, dim: int, theta: float, seq_len: int, device: torch.device) -> tuple[Tensor, float]:
        return base_frequencies(dim, theta, device) / self.factor, 1.0


@dataclass(frozen=True, kw_only=True)
class DynamicScaling(RopeScaling):
    """A base that grows with the sequence once that is longer than trained on (dynamic NTK, Peng et al. 2023, B.1)."""

    factor: float
    """How fast the base grows."""

    original_max_seq_len: int
    """The length trained on, in tokens."""

    changes_with_length = True

    def frequencies(self, dim: int, theta: float, seq_len: int, device: torch.device) -> tuple[Tensor, float]:
        ratio = max(seq_len, self.original_max_seq_len) / self.original_max_seq_len
        grown = theta * (self.factor * ratio - (self.factor - 1)) ** (dim / (dim - 2))
        return base_frequencies(dim, grown, device), 1.0

    def faults(self, dim: int) -> list[str]:
        return [*super().faults(dim), *(["DynamicScaling needs a dim above 2"] if dim == 2 else [])]


@dataclass(frozen=True, kw_only=True)
class Llama3Scaling(RopeScaling):
    """Long wavelengths divided by a factor, short ones kept, a ramp between (Grattafiori et al. 2024, section 3.4.2).

    The formula is that of the code published with Llama 3.1.
    """

    factor: float
    """By how much the longest wavelengths grow."""

    original_max_seq_len: int
    """The length trained on before, in tokens."""

    low_freq_factor: float = 1.0
    """Wavelengths above `original_max_seq_len` over this grow by the whole factor."""

    high_freq_factor: float = 4.0
    """Wavelengths below `original_max_seq_len` over this stay."""

    def frequencies(self, dim: int, theta: float, seq_len: int, device: torch.device) -> tuple[Tensor, float]:
        base = base_frequencies(dim, theta, device)
        turns = self.original_max_seq_len * base / (2 * math.pi)  # of a whole sequence
        ramp = ((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)).clamp(0, 1)
        return (1 - ramp) * base / self.factor + ramp * base, 1.0

    def faults(self, dim: int) -> list[str]:
        faults = super().faults(dim)
        if self.low_freq_factor >= self.high_freq_factor:
            faults.append(
                f"low_freq_factor = {self.low_freq_factor} must be below high_freq_factor = {self.high_freq_factor}"
            )
        return faults


@dataclass(frozen=True, kw_only=True)
class YarnScaling(RopeScaling):
    """YaRN: each dimension by how often it turns, and warmer attention (Peng et al. 2023, sections 3.2 and 3.4)."""

    factor: float
    """By how much the length grows."""

    original_max_seq_len: int
    """The length trained on before, in tokens."""

    beta_fast: float = 32.0
    """Dimensions that turn more often than this over a sequence stay."""

    beta_slow: float = 1.0
    """Dimensions that turn less often than this grow by the whole factor."""

    attention_factor: float | None = None
    """The amplitude; worked out if None."""

    mscale: float | None = None
    """With `mscale_all_dim`: weights of the logarithm in the amplitude (DeepSeek-V2's code)."""

    mscale_all_dim: float | None = None
    """See `mscale`."""

    truncate: bool = True
    """Round the ends of the ramp to whole dimensions."""

    def frequencies(self, dim: int, theta: float, seq_len: int, device: torch.device) -> tuple[Tensor, float]:
        base = base_frequencies(dim, theta, device)
        low, high = (self._dimension(turns, dim, theta) for turns in (self.beta_fast, self.beta_slow))
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        index = torch.arange(dim // 2, dtype=torch.float32, device=device)
        ramp = ((index - low) / (high - low if high != low else 1e-3)).clamp(0, 1)
        return base / self.factor * ramp + base * (1 - ramp), self._amplitude()

    def _dimension(self, turns: float, dim: int, theta: float) -> float:
        """The dimension that turns so often over the sequences trained on."""
        return dim * math.log(self.original_max_seq_len / (turns * 2 * math.pi)) / (2 * math.log(theta))

    def _amplitude(self) -> float:
        if self.attention_factor is not None:
            return self.attention_factor

        def amplitude(weight: float) -> float:
            return 0.1 * weight * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0

        if self.mscale and self.mscale_all_dim:
            return amplitude(self.mscale) / amplitude(self.mscale_all_dim)
        return amplitude(1.0)


@dataclass(frozen=True, kw_only=True)
class LongRopeScaling(RopeScaling):
    """A factor for each dimension, found by search, one set for short and one for long sequences (Ding et al. 2024)."""

    short_factors: tuple[float, ...]
    """Divisors of the frequencies, (dim / 2,), up to the length trained on."""

    long_factors: tuple[float, ...]
    """Divisors of the frequencies, (dim / 2,), beyond it."""

    original_max_seq_len: int
    """The length trained on before, in tokens."""

    factor: float = 1.0
    """By how much the length grows; sets the amplitude (section 3.2 of the paper's code)."""

    attention_factor: float | None = None
    """The amplitude; worked out if None."""

    changes_with_length = True

    def frequencies(self, dim: int, theta: float, seq_len: int, device: torch.device) -> tuple[Tensor, float]:
        divisors = self.long_factors if seq_len > self.original_max_seq_len else self.short_factors
        exponents = torch.arange(0, dim, 2, dtype=torch.int64, device=device).float() / dim
        return 1.0 / (torch.tensor(divisors, device=device) * theta**exponents), self._amplitude()

    def faults(self, dim: int) -> list[str]:
        faults = super().faults(dim)
        for name, factors in (("short_factors", self.short_factors), ("long_factors", self.long_factors)):
            if len(factors) != dim // 2:
                faults.append(f"LongRopeScaling.{name} has {len(factors)} values: must be dim / 2 = {dim // 2}")
            if wrong := [factor for factor in factors if factor <= 0]:
                faults.append(f"LongRopeScaling.{name} holds {wrong}: must all be above 0")
        return faults

    def _amplitude(self) -> float:
        if self.attention_factor is not None:
            return self.attention_factor
        if self.factor <= 1:
            return 1.0
        return math.sqrt(1 + math.log(self.factor) / math.log(self.original_max_seq_len))

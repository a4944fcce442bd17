"""The published ways to stretch rotary positions, as a spec says them."""

from __future__ import annotations

from kinfold.scaffold.spec.section import Section


class _Scaling(Section, frozen=True, kw_only=True, tag_field="kind"):
    """A published way to stretch rotary positions; the fields are those of its class in `kinfold.nn`."""


class LinearScaling(_Scaling, frozen=True, kw_only=True, tag="linear"):
    factor: float


class DynamicScaling(_Scaling, frozen=True, kw_only=True, tag="dynamic"):
    factor: float
    original_max_seq_len: int


class Llama3Scaling(_Scaling, frozen=True, kw_only=True, tag="llama3"):
    factor: float
    original_max_seq_len: int
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0


class YarnScaling(_Scaling, frozen=True, kw_only=True, tag="yarn"):
    factor: float
    original_max_seq_len: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True


class LongRopeScaling(_Scaling, frozen=True, kw_only=True, tag="longrope"):
    short_factors: tuple[float, ...]
    long_factors: tuple[float, ...]
    original_max_seq_len: int
    factor: float = 1.0
    attention_factor: float | None = None


RopeScaling = LinearScaling | DynamicScaling | Llama3Scaling | YarnScaling | LongRopeScaling


class _QueryScaling(Section, frozen=True, kw_only=True, tag_field="kind"):
    """How queries grow with their positions; the fields are those of its class in `kinfold.nn`."""


class LogQueryScaling(_QueryScaling, frozen=True, kw_only=True, tag="log"):
    beta: float
    interval: int


class PowerQueryScaling(_QueryScaling, frozen=True, kw_only=True, tag="power"):
    exponent: float
    interval: int


QueryScaling = LogQueryScaling | PowerQueryScaling

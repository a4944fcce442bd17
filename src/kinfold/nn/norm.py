"""Norms over the last dimension."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, rms_norm

from kinfold.errors import ConfigError
from kinfold.nn.precision import at_least_float32


class _Norm(nn.Module):
    """The weight and the bias of a norm, each None where there is none."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, dim: int, *, eps: float, offset: float, weight: bool, bias: bool, heads: int | None) -> None:
        super().__init__()
        if faults := _faults(dim, offset, weight, heads):
            raise ConfigError("This norm does not fit together:", faults=faults)
        self.dim = dim
        self.eps = eps
        self.offset = offset
        self.heads = heads
        shape = (dim,) if heads is None else (heads, dim)
        self.weight = nn.Parameter(torch.empty(shape)) if weight else None
        self.bias = nn.Parameter(torch.empty(shape)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weight to what multiplies by one, and the bias to zeros."""
        if self.weight is not None:
            nn.init.constant_(self.weight, 1 - self.offset)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def extra_repr(self) -> str:
        heads = "" if self.heads is None else f", heads={self.heads}"
        offset = f", offset={self.offset}" if self.offset else ""
        return f"{self.dim}, eps={self.eps}{offset}{heads}"

    def _scaled(self, normed: Tensor) -> Tensor:
        """(..., dim), times the weight with its offset, plus the bias, in the dtype of `normed`."""
        if self.weight is not None:
            normed = normed * (self._by_head(self.weight).to(normed.dtype) + self.offset)
        if self.bias is not None:
            normed = normed + self._by_head(self.bias).to(normed.dtype)
        return normed

    def _by_head(self, parameter: Tensor) -> Tensor:
        return parameter if self.heads is None else parameter[:, None]


class RMSNorm(_Norm):
    """Root mean square norm (Zhang and Sennrich 2019, section 3), computed in float32 or wider.

    The result is cast back before it is multiplied by the weight, as in the code published with Llama; with an offset
    or weights by head it is cast back after, as in the code published with Gemma.

    Args:
        dim: The size of the last dimension.
        eps: What is added to the mean square.
        offset: What is added to the weight before it multiplies.
        weight: Whether there is a weight.
        heads: How many heads have a weight of their own, for heads (B, heads, S, dim); None for one weight.

    Raises:
        ConfigError: A size is not above 0, or there is an offset without a weight.
    """

    def __init__(
        self, dim: int, *, eps: float = 1e-5, offset: float = 0.0, weight: bool = True, heads: int | None = None
    ) -> None:
        super().__init__(dim, eps=eps, offset=offset, weight=weight, bias=False, heads=heads)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to (..., dim), in the dtype of `x`, or that of the weight if it is wider."""
        with _out_of_autocast(x):
            if self.weight is None:
                return rms_norm(x, (self.dim,), eps=self.eps)
            if self.heads is None and not self.offset:
                return self.weight * rms_norm(x, (self.dim,), eps=self.eps)
        return self._scaled(rms_norm(x.to(at_least_float32(x.dtype)), (self.dim,), eps=self.eps)).to(x.dtype)


class LayerNorm(_Norm):
    """Layer norm (Ba et al. 2016, section 3), computed in float32 or wider.

    Args:
        dim: The size of the last dimension.
        eps: What is added to the variance.
        offset: What is added to the weight before it multiplies.
        weight: Whether there is a weight.
        bias: Whether there is a bias.
        heads: How many heads have a weight and a bias of their own, for heads (B, heads, S, dim); None for one.

    Raises:
        ConfigError: A size is not above 0, or there is an offset without a weight.
    """

    def __init__(
        self,
        dim: int,
        *,
        eps: float = 1e-5,
        offset: float = 0.0,
        weight: bool = True,
        bias: bool = True,
        heads: int | None = None,
    ) -> None:
        super().__init__(dim, eps=eps, offset=offset, weight=weight, bias=bias, heads=heads)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to (..., dim), in the dtype of `x`."""
        if self.heads is None and not self.offset:
            return layer_norm(x, (self.dim,), self.weight, self.bias, self.eps)
        return self._scaled(layer_norm(x.to(at_least_float32(x.dtype)), (self.dim,), eps=self.eps)).to(x.dtype)


def _out_of_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Within autocast torch 2.12 and later gives float32, and keeps it: twice the memory for what is no more exact."""
    device = x.device.type
    is_within = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if is_within else nullcontext()


def _faults(dim: int, offset: float, weight: bool, heads: int | None) -> list[str]:
    faults = [f"dim = {dim}: must be above 0"] if dim <= 0 else []
    if heads is not None and heads <= 0:
        faults.append(f"heads = {heads}: must be above 0")
    if offset and not weight:
        faults.append(f"offset = {offset}: there is no weight that it could be added to")
    return faults

"""What the kernels of GPUs keep for the backward pass, where those of CPUs keep something else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

F = TypeVar("F", bound=Callable[..., Any])


class AsOnGpus(TorchFunctionMode):
    """Functions give tensors of the right shape, and keep what they keep on GPUs; values are nobody's business."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given: Any = (args, kwargs or {})
        if func in _IN_FLOAT32 and torch.is_autocast_enabled("cpu"):
            given = tree_map_only(Tensor, _widened, given)
        return _ON_GPUS.get(func, func)(*given[0], **given[1])


def as_on_gpus(function: F) -> F:
    """A function that computes so wherever it is called."""

    @wraps(function)
    def compute(*args: Any, **kwargs: Any) -> Any:
        with AsOnGpus():
            return function(*args, **kwargs)

    return compute  # pyright: ignore[reportReturnType]


class _Attention(Function):
    """Keeps queries, keys, values, the output and a number for each row, never the scores (Dao 2023, section 3.1)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        batch, heads, length, _ = q.shape
        out = q.new_empty(batch, length, heads, v.shape[-1]).transpose(1, 2)
        ctx.save_for_backward(q, k, v, mask, out, q.new_empty(batch, heads, length, dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        given = zip(ctx.saved_tensors[:4], ctx.needs_input_grad, strict=True)
        return tuple(torch.empty_like(x) if needs else None for x, needs in given)


class _RMSNorm(Function):
    """Keeps what it is given, and a number for each row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x, x.new_empty(x.shape[:-1], dtype=torch.float32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return torch.empty_like(ctx.saved_tensors[0])


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *_: object, **__: object
) -> Tensor:
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = (tensor.to(dtype) for tensor in (query, key, value))
    if attn_mask is not None and attn_mask.dtype != query.dtype:
        attn_mask = torch.empty_like(attn_mask, dtype=query.dtype)  # it is made what is added to the scores
    return _Attention.apply(query, key, value, attn_mask)  # pyright: ignore[reportReturnType]


def _rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    normed: Tensor = _RMSNorm.apply(input)  # pyright: ignore[reportAssignmentType]
    return normed if weight is None else normed * weight


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return torch.native_dropout(input, p, training)[0] if training and p else input


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


_ON_GPUS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    functional.scaled_dot_product_attention: _attention,
    functional.rms_norm: _rms_norm,
    functional.dropout: _dropout,
}

_IN_FLOAT32 = {
    getattr(place, name)
    for name in (
        *("exp", "expm1", "log", "log10", "log1p", "log2", "pow", "__pow__", "__rpow__", "reciprocal", "rsqrt"),
        *("layer_norm", "rms_norm", "group_norm", "norm", "normalize", "cosine_similarity"),
        *("softplus", "softmax", "log_softmax", "logsumexp", "sum", "prod", "cumsum", "cumprod"),
    )
    for place in (functional, torch, Tensor)
    if hasattr(place, name)
}
"""What autocast computes in float32 on GPUs, and not on CPUs; of torch's list what a model may have in it."""

"""From queries, keys and values to what is attended to."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import dropout, scaled_dot_product_attention

from kinfold.nn.output import soft_cap
from kinfold.nn.per_head import Sinks
from kinfold.nn.precision import at_least_float32


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    cap: float | None = None,
    sinks: Sinks | None = None,
    dropout_p: float = 0.0,
) -> Tensor:
    """Values, weighted by a softmax of scores (Vaswani et al. 2017, section 3.2.1).

    Args:
        q: (B, H, S, d).
        k: (B, H', T, d); H' divides H.
        v: (B, H', T, d').
        mask: To (B, H, S, T): bool, True where a query sees a key, or what is added to the scores; None for all.
        is_causal: In place of a mask: a query sees the keys up to its own; S is T.
        scale: What scores are multiplied by; d ** -0.5 if None.
        cap: What their amounts stay below, before the mask.
        sinks: Scores without values.
        dropout_p: How likely a weight is left out.

    Returns:
        (B, H, S, d').
    """
    if cap is None and sinks is None:
        return scaled_dot_product_attention(
            q, k, v, mask, dropout_p, is_causal, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )
    kv_heads, seq_len = k.shape[1], q.shape[2]
    q = q * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = _by_query_heads(_by_kv_heads(q, kv_heads) @ k.transpose(2, 3), seq_len)
    if cap is not None:
        scores = soft_cap(scores, cap)
    weights = _weights(scores, as_tensor(mask, is_causal, q), sinks)
    if dropout_p:
        weights = dropout(weights, dropout_p)
    return _by_query_heads(_by_kv_heads(weights, kv_heads) @ v, seq_len)


def as_tensor(mask: Tensor | None, is_causal: bool, q: Tensor) -> Tensor | None:
    """The mask that `is_causal` stands for, bool (S, S), or the one given."""
    if not is_causal:
        return mask
    seq_len = q.shape[2]
    return torch.ones(seq_len, seq_len, dtype=torch.bool, device=q.device).tril()


def _weights(scores: Tensor, mask: Tensor | None, sinks: Sinks | None) -> Tensor:
    """A softmax in float32 or wider; what goes to sinks is left out."""
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    num_keys = scores.shape[-1]
    if sinks is not None:
        scores = sinks(scores)
    wide = at_least_float32(scores.dtype)
    return scores.softmax(dim=-1, dtype=wide)[..., :num_keys].to(scores.dtype)


def _by_kv_heads(x: Tensor, kv_heads: int) -> Tensor:
    """(B, H, S, ...) to (B, H', H / H' * S, ...): the queries that share keys are rows of one product."""
    return x.unflatten(1, (kv_heads, -1)).flatten(2, 3)


def _by_query_heads(x: Tensor, seq_len: int) -> Tensor:
    return x.unflatten(2, (-1, seq_len)).flatten(1, 2)

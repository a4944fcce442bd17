"""What does not fit together in an attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import nn

from kinfold.nn.norm import LayerNorm, RMSNorm
from kinfold.nn.position import Rotary

if TYPE_CHECKING:
    from kinfold.nn.attention import Attention, MultiHeadAttention


def projection_faults(attention: MultiHeadAttention) -> list[str]:
    """What is wrong with the widths of the projections."""
    q_proj, k_proj, v_proj, head_dim = attention.q_proj, attention.k_proj, attention.v_proj, attention.head_dim
    q, k, v = (proj.out_features for proj in (q_proj, k_proj, v_proj))
    faults = [
        f"{name}_proj gives {width}, which is no multiple of head_dim {head_dim}"
        for name, width in (("q", q), ("k", k), ("v", v))
        if head_dim <= 0 or width % head_dim
    ]
    if k != v:
        faults.append(f"k_proj gives {k} and v_proj {v}, which must be equal")
    elif not faults and q % k:
        faults.append(f"{q // head_dim} query heads cannot share {k // head_dim} key and value heads evenly")
    if attention.output_proj.in_features != q:
        faults.append(f"output_proj takes {attention.output_proj.in_features}, q_proj gives {q}")
    if len(widths := {proj.in_features for proj in (q_proj, k_proj, v_proj)}) > 1:
        faults.append(f"the projections take different widths: {sorted(widths)}")
    return [*faults, *dropout_faults(attention.dropout_p)]


def attention_faults(attention: Attention) -> list[str]:
    """What is wrong with the parts of self-attention, besides its projections."""
    num_heads = attention.q_proj.out_features // max(attention.head_dim, 1)
    return [
        *position_faults(attention.position, attention.head_dim),
        *_qk_norm_faults(attention),
        *window_faults(attention.window),
        *_number_faults(attention),
        *_part_faults(attention, num_heads),
        *_gate_faults(attention, num_heads),
    ]


def position_faults(position: Rotary | None, head_dim: int) -> Iterator[str]:
    """What is wrong with positions for heads of this width."""
    if position is not None and position.dim > head_dim:
        yield f"position turns {position.dim} dimensions of heads that have {head_dim}"


def window_faults(window: int | None) -> Iterator[str]:
    """What is wrong with a window."""
    if window is not None and window <= 0:
        yield f"a window of {window} tokens sees nothing"


def dropout_faults(dropout_p: float) -> Iterator[str]:
    """What is wrong with how likely a weight is left out."""
    if not 0 <= dropout_p <= 1:
        yield f"dropout_p = {dropout_p}: must be from 0 to 1"


def above_zero_faults(**values: float | None) -> Iterator[str]:
    """What is wrong with numbers that have to be above 0, or None."""
    for name, value in values.items():
        if value is not None and value <= 0:
            yield f"{name} = {value}: must be above 0"


def norm_faults(name: str, norm: nn.Module | None, width: int) -> Iterator[str]:
    """What is wrong with a norm over vectors of this width, as far as it says what it is over."""
    if isinstance(norm, RMSNorm | LayerNorm) and norm.dim != width:
        yield f"{name} is over {norm.dim}, and must be over {width}"


def _number_faults(attention: Attention) -> Iterator[str]:
    yield from above_zero_faults(scale=attention.scale, cap=attention.cap, clip=attention.clip)


def _qk_norm_faults(attention: Attention) -> Iterator[str]:
    over, head_dim = attention.norm_over, attention.head_dim
    if over not in ("head", "width"):
        yield f"norm_over = {over!r}: must be 'head' or 'width'"
        return
    if over == "width" and attention.norm_after_position:
        yield "norms over the whole width come before heads are turned: norm_after_position must be False"
    parts = (("q", attention.q_norm, attention.q_proj), ("k", attention.k_norm, attention.k_proj))
    for name, norm, proj in parts:
        yield from norm_faults(f"{name}_norm", norm, head_dim if over == "head" else proj.out_features)
        if not isinstance(norm, RMSNorm | LayerNorm) or norm.heads is None:
            continue
        if over == "width":
            yield f"{name}_norm has a weight for each head: norm_over must be 'head'"
        elif norm.heads * head_dim != proj.out_features:
            yield f"{name}_norm is for {norm.heads} heads, {name}_proj gives {proj.out_features // max(head_dim, 1)}"


def _part_faults(attention: Attention, num_heads: int) -> Iterator[str]:
    parts = (("bias", attention.bias), ("sinks", attention.sinks), ("gate_bias", attention.gate_bias))
    for name, part in parts:
        if part is not None and part.num_heads != num_heads:
            yield f"{name} is for {part.num_heads} heads, q_proj gives {num_heads}"
    yield from norm_faults("output_norm", attention.output_norm, attention.output_proj.in_features)


def _gate_faults(attention: Attention, num_heads: int) -> Iterator[str]:
    gate, q_proj = attention.gate_proj, attention.q_proj
    if gate is None:
        if attention.gate_bias is not None:
            yield "gate_bias has no gate_proj whose numbers it could be added to"
        return
    if gate.in_features != q_proj.in_features:
        yield f"gate_proj takes {gate.in_features}, q_proj {q_proj.in_features}"
    if gate.out_features not in (num_heads, q_proj.out_features):
        yield f"gate_proj gives {gate.out_features}, and must give {num_heads} or {q_proj.out_features}"

"""Multi-head attention, with its variations passed in as parts."""

from __future__ import annotations

from functools import partial
from typing import Literal

from torch import Tensor, nn

from kinfold.errors import ConfigError
from kinfold.nn.attention_faults import attention_faults, projection_faults
from kinfold.nn.attention_scores import as_tensor, attend
from kinfold.nn.bias import Alibi
from kinfold.nn.dynamic_mask import DynamicMask
from kinfold.nn.per_head import HeadBias, Sinks
from kinfold.nn.position import Rotary, kept_keys
from kinfold.nn.query_scaling import QueryScaling
from kinfold.nn.state import DecodeState, EncoderOutput, PassState


class MultiHeadAttention(nn.Module):
    """What self-attention and attention to an encoder have in common (Vaswani et al. 2017, section 3.2).

    Queries may share keys and values: grouped-query (Ainslie et al. 2023) and multi-query (Shazeer 2019)
    attention. The numbers of heads follow from the projections.

    Args:
        q_proj: (B, S, D) to (B, S, query heads * head_dim).
        k_proj: (B, S, D) to (B, S, key and value heads * head_dim).
        v_proj: Likewise.
        output_proj: (B, S, query heads * head_dim) to (B, S, D).
        head_dim: The width of a head.
        dropout_p: How likely a weight of a key is left out in training.
    """

    def __init__(
        self,
        *,
        q_proj: nn.Linear,
        k_proj: nn.Linear,
        v_proj: nn.Linear,
        output_proj: nn.Linear,
        head_dim: int,
        dropout_p: float = 0.0,
    ) -> None:
        super().__init__()
        self.q_proj = q_proj
        self.k_proj = k_proj
        self.v_proj = v_proj
        self.output_proj = output_proj
        self.head_dim = head_dim
        self.dropout_p = dropout_p

    def extra_repr(self) -> str:
        return f"head_dim={self.head_dim}, dropout_p={self.dropout_p}"

    def _heads(self, x: Tensor) -> Tensor:
        # As many heads as there are rows: a tensor-parallel rank has fewer than the whole.
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def _faults(self) -> list[str]:
        return projection_faults(self)

    def _check(self) -> None:
        """At the end of `__init__`: raise a `ConfigError` that lists everything that does not fit together."""
        if faults := self._faults():
            raise ConfigError("This attention does not fit together:", faults=faults)


class Attention(MultiHeadAttention):
    """Self-attention; which tokens see which is for the state to say: those before, or all.

    Args:
        q_proj: (B, S, D) to (B, S, query heads * head_dim).
        k_proj: (B, S, D) to (B, S, key and value heads * head_dim).
        v_proj: Likewise.
        output_proj: (B, S, query heads * head_dim) to (B, S, D).
        head_dim: The width of a head.
        position: What turns queries and keys by their positions; None for attention without positions, or by a bias.
        q_norm: A norm of the queries.
        k_norm: A norm of the keys.
        norm_over: What the two are over: each "head", or the whole "width" of a projection (OLMo 2).
        norm_after_position: They come after `position`, not before it.
        window: How many tokens, itself included, a query sees (Beltagy et al. 2020, section 3.1); None for all.
        scale: What scores are multiplied by; head_dim ** -0.5 if None.
        query_scaling: What queries pass last.
        bias: What is added to the scores.
        dynamic_mask: What is added to the scores by the values of their keys.
        cap: What the amounts of scores stay below, by `soft_cap` (Gemma 2).
        sinks: Scores that have no value.
        clip: What the amounts of projected queries, keys and values are clamped to, before their norms (MPT).
        output_norm: A norm over what all heads give, before `output_proj` (BitNet).
        gate_proj: (B, S, D) to a number for each query head, or for each of its dimensions: what heads give is
            multiplied by the sigmoid of it, before `output_norm` (Qiu et al. 2025, section 2.2).
        gate_bias: What is added to these numbers.
        dropout_p: How likely a weight of a key is left out in training.

    Raises:
        ConfigError: The parts do not fit together; lists everything that does not.
    """

    def __init__(
        self,
        *,
        q_proj: nn.Linear,
        k_proj: nn.Linear,
        v_proj: nn.Linear,
        output_proj: nn.Linear,
        head_dim: int,
        position: Rotary | None = None,
        q_norm: nn.Module | None = None,
        k_norm: nn.Module | None = None,
        norm_over: Literal["head", "width"] = "head",
        norm_after_position: bool = False,
        window: int | None = None,
        scale: float | None = None,
        query_scaling: QueryScaling | None = None,
        bias: Alibi | None = None,
        dynamic_mask: DynamicMask | None = None,
        cap: float | None = None,
        sinks: Sinks | None = None,
        clip: float | None = None,
        output_norm: nn.Module | None = None,
        gate_proj: nn.Linear | None = None,
        gate_bias: HeadBias | None = None,
        dropout_p: float = 0.0,
    ) -> None:
        super().__init__(
            q_proj=q_proj, k_proj=k_proj, v_proj=v_proj, output_proj=output_proj, head_dim=head_dim, dropout_p=dropout_p
        )
        self.position = position
        self.q_norm = q_norm
        self.k_norm = k_norm
        self.norm_over = norm_over
        self.norm_after_position = norm_after_position
        self.window = window
        self.scale = scale
        self.query_scaling = query_scaling
        self.bias = bias
        self.dynamic_mask = dynamic_mask
        self.cap = cap
        self.sinks = sinks
        self.clip = clip
        self.output_norm = output_norm
        self.gate_proj = gate_proj
        self.gate_bias = gate_bias
        self._check()

    def forward(self, x: Tensor, state: PassState) -> Tensor:
        """Let tokens look at one another.

        Args:
            x: (B, S, D).
            state: Of this pass.

        Returns:
            (B, S, D).
        """
        q = self._projected(self.q_proj, x, self.q_norm)  # (B, H, S, head_dim)
        k = self._projected(self.k_proj, x, self.k_norm)
        v = state.keep(self, "values", self._projected(self.v_proj, x))
        q = self._placed(q, state, norm=self.q_norm)
        k = kept_keys(self, k, state, self.position, partial(self._placed, norm=self.k_norm))
        if self.query_scaling is not None:
            q = self.query_scaling(q, state)
        return self.output_proj(self._finished(self._attended(q, k, v, state), x))

    def extra_repr(self) -> str:
        parts = {"window": self.window, "scale": self.scale, "cap": self.cap, "clip": self.clip}
        return ", ".join([super().extra_repr(), *(f"{name}={value}" for name, value in parts.items() if value)])

    def _projected(self, proj: nn.Linear, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        x = proj(x)
        if self.clip is not None:
            x = x.clamp(-self.clip, self.clip)
        if norm is not None and self.norm_over == "width":
            x = norm(x)
        return self._heads(x)

    def _placed(self, heads: Tensor, state: PassState, *, norm: nn.Module | None, of_all: bool = False) -> Tensor:
        """Queries or keys after their norm by head and their positions, in the order of the two."""
        if self.norm_over != "head":
            norm = None
        if norm is not None and not self.norm_after_position:
            heads = norm(heads)
        if self.position is not None:
            heads = self.position(heads, state, of_all=of_all)
        if norm is not None and self.norm_after_position:
            heads = norm(heads)
        return heads

    def _attended(self, q: Tensor, k: Tensor, v: Tensor, state: PassState) -> Tensor:
        """What each head attends to, (B, S, H, head_dim)."""
        mask, is_causal = state.attention_mask(self.window)
        if self.bias is not None:
            mask, is_causal = self._biased(self.bias, mask, is_causal, q, state), False
        if self.dynamic_mask is not None:
            mask, is_causal = self.dynamic_mask(v, as_tensor(mask, is_causal, q), q.shape[1]), False
        dropout_p = self.dropout_p if self.training else 0.0
        parts = {"scale": self.scale, "cap": self.cap, "sinks": self.sinks}
        return attend(q, k, v, mask, is_causal=is_causal, dropout_p=dropout_p, **parts).transpose(1, 2)

    def _biased(self, bias: Alibi, mask: Tensor | None, is_causal: bool, q: Tensor, state: PassState) -> Tensor:
        """The mask and the bias as one, (1 or B, H, S, T) in the dtype of `q`; once a pass for all layers."""

        def combine() -> Tensor:
            scores = bias(state).to(q.dtype)
            sees = as_tensor(mask, is_causal, q)
            scores = scores if sees is None else scores.masked_fill(~sees, float("-inf"))
            return scores if scores.dim() == 4 else scores[None]

        return state.once((bias, self.window, q.dtype), combine)

    def _finished(self, attended: Tensor, x: Tensor) -> Tensor:
        """(B, S, H, head_dim) to (B, S, H * head_dim), through the gate and the norm."""
        if self.gate_proj is not None:
            gate = self.gate_proj(x).unflatten(-1, (attended.shape[2], -1))
            attended = attended * (gate if self.gate_bias is None else self.gate_bias(gate)).sigmoid()
        attended = attended.flatten(2)
        return attended if self.output_norm is None else self.output_norm(attended)

    def _faults(self) -> list[str]:
        return super()._faults() + attention_faults(self)


class CrossAttention(MultiHeadAttention):
    """Attention of a decoder to what its encoder gave (Vaswani et al. 2017, section 3.2.3); no positions.

    Args:
        q_proj: (B, T, D) to (B, T, query heads * head_dim).
        k_proj: (B, S, D) to (B, S, key and value heads * head_dim).
        v_proj: Likewise.
        output_proj: (B, T, query heads * head_dim) to (B, T, D).
        head_dim: The width of a head.
        dropout_p: How likely a weight of a key is left out in training.

    Raises:
        ConfigError: The projections do not fit together; lists everything that does not.
    """

    def __init__(
        self,
        *,
        q_proj: nn.Linear,
        k_proj: nn.Linear,
        v_proj: nn.Linear,
        output_proj: nn.Linear,
        head_dim: int,
        dropout_p: float = 0.0,
    ) -> None:
        super().__init__(
            q_proj=q_proj, k_proj=k_proj, v_proj=v_proj, output_proj=output_proj, head_dim=head_dim, dropout_p=dropout_p
        )
        self._check()

    def forward(self, x: Tensor, encoder_output: EncoderOutput, state: DecodeState) -> Tensor:
        """Let the tokens of the target look at those of the source.

        Args:
            x: (B, T, D), of the target.
            encoder_output: Of the source; with a state that has a capacity the same in each pass.
            state: Of this pass; keeps the keys and values of the source.

        Returns:
            (B, T, D).
        """
        k, v = state.once_for_all(self, lambda: self._keys_and_values(encoder_output.vectors))
        dropout_p = self.dropout_p if self.training else 0.0
        attended = attend(self._heads(self.q_proj(x)), k, v, encoder_output.attention_mask, dropout_p=dropout_p)
        return self.output_proj(attended.transpose(1, 2).flatten(2))

    def _keys_and_values(self, source: Tensor) -> tuple[Tensor, Tensor]:
        return self._heads(self.k_proj(source)), self._heads(self.v_proj(source))

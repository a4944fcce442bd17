"""Multi-head attention, with its variations passed in as parts."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from kinfold.errors import ConfigError
from kinfold.nn.position import Rotary
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
        super().__init__()
        self.q_proj = q_proj
        self.k_proj = k_proj
        self.v_proj = v_proj
        self.output_proj = output_proj
        self.head_dim = head_dim
        self.dropout_p = dropout_p
        if faults := self._faults():
            raise ConfigError("This attention does not fit together:", faults=faults)

    def extra_repr(self) -> str:
        return f"head_dim={self.head_dim}, dropout_p={self.dropout_p}"

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, is_causal: bool = False) -> Tensor:
        """(B, H, S, head_dim) of queries, (B, H', T, head_dim) of keys and values, to (B, S, D)."""
        dropout_p = self.dropout_p if self.training else 0.0
        shared = q.shape[1] != k.shape[1]
        x = scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout_p, is_causal=is_causal, enable_gqa=shared
        )
        return self.output_proj(x.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        # As many heads as there are rows: a tensor-parallel rank has fewer than the whole.
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def _faults(self) -> list[str]:
        q, k, v = (proj.out_features for proj in (self.q_proj, self.k_proj, self.v_proj))
        faults = [
            f"{name}_proj gives {width}, which is no multiple of head_dim {self.head_dim}"
            for name, width in (("q", q), ("k", k), ("v", v))
            if self.head_dim <= 0 or width % self.head_dim
        ]
        if k != v:
            faults.append(f"k_proj gives {k} and v_proj {v}, which must be equal")
        elif not faults and q % k:
            heads = (q // self.head_dim, k // self.head_dim)
            faults.append("{} query heads cannot share {} key and value heads evenly".format(*heads))
        if self.output_proj.in_features != q:
            faults.append(f"output_proj takes {self.output_proj.in_features}, q_proj gives {q}")
        if len(widths := {proj.in_features for proj in (self.q_proj, self.k_proj, self.v_proj)}) > 1:
            faults.append(f"the projections take different widths: {sorted(widths)}")
        return faults


class Attention(MultiHeadAttention):
    """Self-attention; which tokens see which is for the state to say: those before, or all.

    Args:
        position: What turns queries and keys by their positions; None for attention without positions.
        q_norm: A norm over the width of each query head, before `position`.
        k_norm: Likewise, of each key head.
        window: How many tokens, itself included, a query sees (Beltagy et al. 2020, section 3.1); None for all.

    The other arguments are those of `MultiHeadAttention`.
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
        window: int | None = None,
        dropout_p: float = 0.0,
    ) -> None:
        self.window = window  # first, since the check is in there
        super().__init__(
            q_proj=q_proj, k_proj=k_proj, v_proj=v_proj, output_proj=output_proj, head_dim=head_dim, dropout_p=dropout_p
        )
        self.q_norm = q_norm
        self.k_norm = k_norm
        self.position = position

    def forward(self, x: Tensor, state: PassState) -> Tensor:
        """Let tokens look at one another.

        Args:
            x: (B, S, D).
            state: Of this pass.

        Returns:
            (B, S, D).
        """
        q, k, v = (self._heads(proj(x)) for proj in (self.q_proj, self.k_proj, self.v_proj))  # (B, H, S, head_dim)
        if self.q_norm is not None:
            q = self.q_norm(q)
        if self.k_norm is not None:
            k = self.k_norm(k)
        v = state.keep(self, "values", v)
        if self.position is None:
            k = state.keep(self, "keys", k)
        elif self.position.changes_with_length:  # keys kept from shorter sequences have to be turned anew
            q = self.position(q, state)
            k = self.position(state.keep(self, "keys", k), state, of_all=True)
        else:
            q = self.position(q, state)
            k = state.keep(self, "keys", self.position(k, state))
        mask, is_causal = state.attention_mask(self.window)
        return self._attend(q, k, v, mask, is_causal=is_causal)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, window={self.window}"

    def _faults(self) -> list[str]:
        faults = super()._faults()
        if self.window is not None and self.window <= 0:
            faults.append(f"a window of {self.window} tokens sees nothing")
        return faults


class CrossAttention(MultiHeadAttention):
    """Attention of a decoder to what its encoder gave (Vaswani et al. 2017, section 3.2.3); no positions."""

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
        return self._attend(self._heads(self.q_proj(x)), k, v, encoder_output.attention_mask)

    def _keys_and_values(self, source: Tensor) -> tuple[Tensor, Tensor]:
        return self._heads(self.k_proj(source)), self._heads(self.v_proj(source))

"""Multi-head attention, with its variations passed in as parts."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from kinfold.errors import ConfigError
from kinfold.nn.position import Rotary
from kinfold.nn.state import DecodeState


class Attention(nn.Module):
    """Causal self-attention (Vaswani et al. 2017, section 3.2).

    Queries may share keys and values: grouped-query (Ainslie et al. 2023) and multi-query (Shazeer 2019)
    attention. The numbers of heads follow from the projections.

    Args:
        q_proj: (B, S, D) to (B, S, query heads * head_dim).
        k_proj: (B, S, D) to (B, S, key and value heads * head_dim).
        v_proj: Likewise.
        output_proj: (B, S, query heads * head_dim) to (B, S, D).
        head_dim: The width of a head.
        position: What turns queries and keys by their positions; None for attention without positions.
        q_norm: A norm over the width of each query head, before `position`.
        k_norm: Likewise, of each key head.
        window: How many tokens, itself included, a query sees (Beltagy et al. 2020, section 3.1); None for all.

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
        position: Rotary | None = None,
        q_norm: nn.Module | None = None,
        k_norm: nn.Module | None = None,
        window: int | None = None,
    ) -> None:
        super().__init__()
        self.q_proj = q_proj
        self.k_proj = k_proj
        self.v_proj = v_proj
        self.output_proj = output_proj
        self.q_norm = q_norm
        self.k_norm = k_norm
        self.position = position
        self.head_dim = head_dim
        self.window = window
        self._check()

    def forward(self, x: Tensor, state: DecodeState) -> Tensor:
        """Let each token look at those before it.

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
        shared = q.shape[1] != k.shape[1]
        x = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal, enable_gqa=shared)
        return self.output_proj(x.transpose(1, 2).flatten(2))

    def extra_repr(self) -> str:
        return f"head_dim={self.head_dim}, window={self.window}"

    def _heads(self, x: Tensor) -> Tensor:
        # As many heads as there are rows: a tensor-parallel rank has fewer than the whole.
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def _check(self) -> None:
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
        if self.window is not None and self.window <= 0:
            faults.append(f"a window of {self.window} tokens sees nothing")
        if faults:
            raise ConfigError("This attention does not fit together:", faults=faults)

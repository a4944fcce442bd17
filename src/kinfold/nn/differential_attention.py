"""Differential attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kinfold.nn.attention import MultiHeadAttention
from kinfold.nn.attention_faults import above_zero_faults, norm_faults, position_faults, window_faults
from kinfold.nn.attention_scores import attend
from kinfold.nn.position import Rotary, kept_keys
from kinfold.nn.precision import at_least_float32
from kinfold.nn.state import PassState


class DifferentialAttention(MultiHeadAttention):
    """Self-attention whose heads are differences of two, so that noise cancels out (Ye et al. 2024, section 2.1).

    Head i of the first half of the query heads has the second half's head i taken from it, times a number that is
    learned; both attend to values that are twice as wide: those of a head of each half of the values.

    Args:
        q_proj: (B, S, D) to (B, S, query heads * head_dim).
        k_proj: (B, S, D) to (B, S, key and value heads * head_dim).
        v_proj: Likewise.
        output_proj: (B, S, query heads * head_dim) to (B, S, D).
        head_dim: The width of a head.
        lambda_init: What the learned number begins at, by `lambda_init(layer)`.
        norm: A norm over 2 * head_dim, of each difference.
        position: What turns queries and keys by their positions.
        window: How many tokens, itself included, a query sees; None for all.
        scale: What scores are multiplied by; head_dim ** -0.5 if None.

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
        lambda_init: float,
        norm: nn.Module,
        position: Rotary | None = None,
        window: int | None = None,
        scale: float | None = None,
    ) -> None:
        super().__init__(q_proj=q_proj, k_proj=k_proj, v_proj=v_proj, output_proj=output_proj, head_dim=head_dim)
        self.lambda_init = lambda_init
        self.norm = norm
        self.position = position
        self.window = window
        self.scale = scale
        self._check()
        self.lambda_q1 = nn.Parameter(torch.empty(head_dim))
        self.lambda_k1 = nn.Parameter(torch.empty(head_dim))
        self.lambda_q2 = nn.Parameter(torch.empty(head_dim))
        self.lambda_k2 = nn.Parameter(torch.empty(head_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the four vectors anew, with the standard deviation of the paper's code."""
        for vector in (self.lambda_q1, self.lambda_k1, self.lambda_q2, self.lambda_k2):
            nn.init.normal_(vector, std=0.1)

    def forward(self, x: Tensor, state: PassState) -> Tensor:
        """Let tokens look at one another.

        Args:
            x: (B, S, D).
            state: Of this pass.

        Returns:
            (B, S, D).
        """
        q, k, v = (self._heads(proj(x)) for proj in (self.q_proj, self.k_proj, self.v_proj))  # (B, H, S, head_dim)
        v = state.keep(self, "values", v)
        if self.position is not None:
            q = self.position(q, state)
        k = kept_keys(self, k, state, self.position)
        first, second = self._attended(q, k, v, state).chunk(2, dim=1)  # (B, H / 2, S, 2 * head_dim)
        differences = (1 - self.lambda_init) * self.norm(first - self._lambda(x.dtype) * second)
        return self.output_proj(differences.transpose(1, 2).flatten(2))

    def extra_repr(self) -> str:
        return f"head_dim={self.head_dim}, lambda_init={self.lambda_init:.6g}, window={self.window}, scale={self.scale}"

    def _attended(self, q: Tensor, k: Tensor, v: Tensor, state: PassState) -> Tensor:
        """(B, H, S, 2 * head_dim); twice with narrow values, since that is what fast kernels can do."""
        mask, is_causal = state.attention_mask(self.window)
        halves = (half.repeat(1, 2, 1, 1) for half in v.chunk(2, dim=1))
        return torch.cat([attend(q, k, v, mask, is_causal=is_causal, scale=self.scale) for v in halves], dim=-1)

    def _lambda(self, dtype: torch.dtype) -> Tensor:
        """The number that is learned (section 2.1, equation 2), 0-d."""
        wide = at_least_float32(dtype)
        first, second = (
            (q.to(wide) * k.to(wide)).sum().exp()
            for q, k in ((self.lambda_q1, self.lambda_k1), (self.lambda_q2, self.lambda_k2))
        )
        return (first - second + self.lambda_init).to(dtype)

    def _faults(self) -> list[str]:
        faults = [*super()._faults(), *position_faults(self.position, self.head_dim), *window_faults(self.window)]
        faults += [*above_zero_faults(scale=self.scale), *norm_faults("norm", self.norm, 2 * self.head_dim)]
        if self.head_dim > 0 and self.k_proj.out_features // self.head_dim % 2:
            faults.append(f"{self.k_proj.out_features // self.head_dim} key and value heads cannot be halved")
        return faults


def lambda_init(layer: int) -> float:
    """What the learned number of a layer begins at; the first layer is 0 (section 2.1, equation 3)."""
    return 0.8 - 0.6 * math.exp(-0.3 * layer)

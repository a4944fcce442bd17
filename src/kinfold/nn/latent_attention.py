"""Multi-head latent attention."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from kinfold.errors import ConfigError
from kinfold.nn.attention_faults import above_zero_faults, dropout_faults, norm_faults, window_faults
from kinfold.nn.attention_scores import attend
from kinfold.nn.position import Rotary, kept_keys
from kinfold.nn.state import PassState


class LatentAttention(nn.Module):
    """Self-attention whose keys and values come of a narrow latent vector (DeepSeek-V2, section 2.1).

    The last `rotary_dim` dimensions of a head turn; those of the keys are the same for all heads, and come of
    `kv_down_proj` itself. Queries come of `q_proj`, or of a latent vector too. Keys and values are kept, not the
    latent vectors.

    Args:
        q_proj: (B, S, D) to (B, S, heads * head_dim); or else the next three.
        q_down_proj: (B, S, D) to (B, S, width of the latent queries).
        q_latent_norm: A norm over that width.
        q_up_proj: (B, S, that width) to (B, S, heads * head_dim).
        kv_down_proj: (B, S, D) to (B, S, width of the latent keys and values + rotary_dim).
        kv_latent_norm: A norm over that width.
        kv_up_proj: (B, S, that width) to (B, S, heads * (head_dim - rotary_dim + value_head_dim)).
        output_proj: (B, S, heads * value_head_dim) to (B, S, D).
        head_dim: The width of a head of the queries and keys.
        rotary_dim: How much of it turns.
        value_head_dim: The width of a head of the values.
        position: What turns it.
        window: How many tokens, itself included, a query sees; None for all.
        scale: What scores are multiplied by; head_dim ** -0.5 if None.
        dropout_p: How likely a weight of a key is left out in training.

    Raises:
        ConfigError: The parts do not fit together; lists everything that does not.
    """

    def __init__(
        self,
        *,
        kv_down_proj: nn.Linear,
        kv_latent_norm: nn.Module,
        kv_up_proj: nn.Linear,
        output_proj: nn.Linear,
        head_dim: int,
        rotary_dim: int,
        value_head_dim: int,
        position: Rotary,
        q_proj: nn.Linear | None = None,
        q_down_proj: nn.Linear | None = None,
        q_latent_norm: nn.Module | None = None,
        q_up_proj: nn.Linear | None = None,
        window: int | None = None,
        scale: float | None = None,
        dropout_p: float = 0.0,
    ) -> None:
        super().__init__()
        self.q_proj = q_proj
        self.q_down_proj = q_down_proj
        self.q_latent_norm = q_latent_norm
        self.q_up_proj = q_up_proj
        self.kv_down_proj = kv_down_proj
        self.kv_latent_norm = kv_latent_norm
        self.kv_up_proj = kv_up_proj
        self.output_proj = output_proj
        self.head_dim = head_dim
        self.rotary_dim = rotary_dim
        self.value_head_dim = value_head_dim
        self.position = position
        self.window = window
        self.scale = scale
        self.dropout_p = dropout_p
        if faults := self._faults():
            raise ConfigError("This latent attention does not fit together:", faults=faults)

    def forward(self, x: Tensor, state: PassState) -> Tensor:
        """Let tokens look at one another.

        Args:
            x: (B, S, D).
            state: Of this pass.

        Returns:
            (B, S, D).
        """
        q = self._turned(self._queries(x), state)  # (B, H, S, head_dim)
        k, v = self._keys_and_values(x)
        v = state.keep(self, "values", v)
        k = kept_keys(self, k, state, self.position, self._turned)
        mask, is_causal = state.attention_mask(self.window)
        dropout_p = self.dropout_p if self.training else 0.0
        attended = attend(q, k, v, mask, is_causal=is_causal, scale=self.scale, dropout_p=dropout_p)
        return self.output_proj(attended.transpose(1, 2).flatten(2))

    def extra_repr(self) -> str:
        sizes = f"head_dim={self.head_dim}, rotary_dim={self.rotary_dim}, value_head_dim={self.value_head_dim}"
        return f"{sizes}, window={self.window}, scale={self.scale}, dropout_p={self.dropout_p}"

    def _queries(self, x: Tensor) -> Tensor:
        """(B, H, S, head_dim), before they are turned."""
        if self.q_proj is None:
            x = self.q_latent_norm(self.q_down_proj(x))  # pyright: ignore[reportOptionalCall]
        q = (self.q_proj or self.q_up_proj)(x)  # pyright: ignore[reportOptionalCall]
        return q.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def _keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, S, head_dim), before they are turned, and (B, H, S, value_head_dim)."""
        latent, turning = _cut(self.kv_down_proj(x), self.rotary_dim)
        heads = self.kv_up_proj(self.kv_latent_norm(latent))
        heads = heads.unflatten(-1, (-1, self.head_dim - self.rotary_dim + self.value_head_dim)).transpose(1, 2)
        staying, v = _cut(heads, self.value_head_dim)
        turning = turning[:, None].expand(-1, heads.shape[1], -1, -1)
        return torch.cat([staying, turning], dim=-1), v

    def _turned(self, heads: Tensor, state: PassState, *, of_all: bool = False) -> Tensor:
        staying, turning = _cut(heads, self.rotary_dim)
        return torch.cat([staying, self.position(turning, state, of_all=of_all)], dim=-1)

    def _faults(self) -> list[str]:
        faults = [*self._size_faults(), *window_faults(self.window), *dropout_faults(self.dropout_p)]
        latent = [part is not None for part in (self.q_down_proj, self.q_latent_norm, self.q_up_proj)]
        if any(latent) if self.q_proj is not None else not all(latent):
            faults.append("queries come of q_proj alone, or of q_down_proj, q_latent_norm and q_up_proj")
        return faults or list(self._width_faults())

    def _size_faults(self) -> Iterator[str]:
        sizes = {"head_dim": self.head_dim, "rotary_dim": self.rotary_dim, "value_head_dim": self.value_head_dim}
        yield from above_zero_faults(**sizes, scale=self.scale)
        if self.rotary_dim > self.head_dim:
            yield f"rotary_dim = {self.rotary_dim}: must be at most head_dim = {self.head_dim}"
        if self.position.dim != self.rotary_dim:
            yield f"position turns {self.position.dim} dimensions, and must turn rotary_dim = {self.rotary_dim}"
        if (given := self.kv_down_proj.out_features) <= self.rotary_dim:
            yield f"kv_down_proj gives {given}, which must exceed rotary_dim = {self.rotary_dim}"

    def _width_faults(self) -> Iterator[str]:
        """What is wrong with the widths of the projections, given sizes that are right."""
        first = self.q_proj or self.q_down_proj or self.kv_down_proj
        last = self.q_proj or self.q_up_proj or self.kv_up_proj
        num_heads, rest = divmod(last.out_features, self.head_dim)
        if rest:
            yield f"the queries have {last.out_features}, which is no multiple of head_dim {self.head_dim}"
            return
        latent = self.kv_down_proj.out_features - self.rotary_dim
        kv_dim = num_heads * (self.head_dim - self.rotary_dim + self.value_head_dim)
        yield from norm_faults("kv_latent_norm", self.kv_latent_norm, latent)
        if self.q_down_proj is not None and self.q_up_proj is not None:
            yield from norm_faults("q_latent_norm", self.q_latent_norm, self.q_down_proj.out_features)
            yield from _takes("q_up_proj", self.q_up_proj, self.q_down_proj.out_features)
        yield from _takes("kv_down_proj", self.kv_down_proj, first.in_features)
        yield from _takes("kv_up_proj", self.kv_up_proj, latent)
        if self.kv_up_proj.out_features != kv_dim:
            yield f"kv_up_proj gives {self.kv_up_proj.out_features}, and must give {kv_dim}"
        yield from _takes("output_proj", self.output_proj, num_heads * self.value_head_dim)


def _takes(name: str, proj: nn.Linear, width: int) -> Iterator[str]:
    if proj.in_features != width:
        yield f"{name} takes {proj.in_features}, and must take {width}"


def _cut(x: Tensor, last: int) -> tuple[Tensor, Tensor]:
    """All dimensions but so many of the last, and those."""
    return x[..., :-last], x[..., -last:]

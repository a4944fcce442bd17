"""Mistral: how a layer is put together, and how data flows through the model.

In the comments, B is the batch, S the sequence, D the model's width and V the
vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable

from kinfold.nn import DecodeState
from torch import Tensor, nn


class MistralDecoderLayer(nn.Module):
    """Attention, then feed-forward, each behind its norm (pre-norm)."""

    def __init__(
        self,
        *,
        self_attn: nn.Module,
        self_attn_layer_norm: nn.Module,
        ffn: nn.Module,
        ffn_layer_norm: nn.Module,
    ) -> None:
        super().__init__()
        self.self_attn = self_attn
        self.self_attn_layer_norm = self_attn_layer_norm
        self.ffn = ffn
        self.ffn_layer_norm = ffn_layer_norm

    def forward(self, x: Tensor, state: DecodeState) -> Tensor:  # (B, S, D)
        x = x + self.self_attn(self.self_attn_layer_norm(x), state)
        return x + self.ffn(self.ffn_layer_norm(x))


class MistralDecoder(nn.Module):
    """The layers, and the norm after the last."""

    def __init__(self, layers: Iterable[MistralDecoderLayer], *, layer_norm: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.layer_norm = layer_norm

    def forward(self, x: Tensor, state: DecodeState) -> Tensor:  # (B, S, D)
        for layer in self.layers:
            x = layer(x, state)
        return self.layer_norm(x)


class MistralModel(nn.Module):
    """From token ids to logits."""

    def __init__(self, *, decoder_frontend: nn.Module, decoder: MistralDecoder, final_proj: nn.Module) -> None:
        super().__init__()
        self.decoder_frontend = decoder_frontend
        self.decoder = decoder
        self.final_proj = final_proj

    def forward(
        self, token_ids: Tensor, padding_mask: Tensor | None = None, state: DecodeState | None = None
    ) -> Tensor:
        """Predict the next token at every position.

        Args:
            token_ids: int64, (B, S).
            padding_mask: bool, (B, S), True where there is a token; None if there
                is one everywhere.
            state: What is kept from one pass to the next in cached decoding.

        Returns:
            The logits, (B, S, V).
        """
        state = DecodeState() if state is None else state
        state.extend(token_ids, padding_mask)
        x = self.decoder_frontend(token_ids, state)  # (B, S, D)
        x = self.decoder(x, state)
        return self.final_proj(x)

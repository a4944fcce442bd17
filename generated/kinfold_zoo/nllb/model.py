"""Nllb: how a layer is put together, and how data flows through the model.

In the comments, B is the batch, S the source sequence, T the target sequence, D
the model's width and V the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable

from kinfold.nn import DecodeState, EncoderOutput, EncodeState
from torch import Tensor, nn


class NllbEncoderLayer(nn.Module):
    """Attention, then feed-forward, each behind its norm (pre-norm)."""

    def __init__(
        self,
        *,
        self_attn: nn.Module,
        self_attn_layer_norm: nn.Module,
        ffn: nn.Module,
        ffn_layer_norm: nn.Module,
        dropout: nn.Module,
    ) -> None:
        super().__init__()
        self.self_attn = self_attn
        self.self_attn_layer_norm = self_attn_layer_norm
        self.ffn = ffn
        self.ffn_layer_norm = ffn_layer_norm
        self.dropout = dropout

    def forward(self, x: Tensor, state: EncodeState) -> Tensor:  # (B, S, D)
        x = x + self.dropout(self.self_attn(self.self_attn_layer_norm(x), state))
        return x + self.dropout(self.ffn(self.ffn_layer_norm(x)))


class NllbEncoder(nn.Module):
    """The layers, and the norm after the last."""

    def __init__(self, layers: Iterable[NllbEncoderLayer], *, layer_norm: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.layer_norm = layer_norm

    def forward(self, x: Tensor, state: EncodeState) -> Tensor:  # (B, S, D)
        for layer in self.layers:
            x = layer(x, state)
        return self.layer_norm(x)


class NllbDecoderLayer(nn.Module):
    """Attention twice, then feed-forward, each behind its norm (pre-norm)."""

    def __init__(
        self,
        *,
        self_attn: nn.Module,
        self_attn_layer_norm: nn.Module,
        encoder_decoder_attn: nn.Module,
        encoder_decoder_attn_layer_norm: nn.Module,
        ffn: nn.Module,
        ffn_layer_norm: nn.Module,
        dropout: nn.Module,
    ) -> None:
        super().__init__()
        self.self_attn = self_attn
        self.self_attn_layer_norm = self_attn_layer_norm
        self.encoder_decoder_attn = encoder_decoder_attn
        self.encoder_decoder_attn_layer_norm = encoder_decoder_attn_layer_norm
        self.ffn = ffn
        self.ffn_layer_norm = ffn_layer_norm
        self.dropout = dropout

    def forward(self, x: Tensor, encoder_output: EncoderOutput, state: DecodeState) -> Tensor:  # (B, T, D)
        x = x + self.dropout(self.self_attn(self.self_attn_layer_norm(x), state))
        x = x + self.dropout(self.encoder_decoder_attn(self.encoder_decoder_attn_layer_norm(x), encoder_output, state))
        return x + self.dropout(self.ffn(self.ffn_layer_norm(x)))


class NllbDecoder(nn.Module):
    """The layers, and the norm after the last."""

    def __init__(self, layers: Iterable[NllbDecoderLayer], *, layer_norm: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.layer_norm = layer_norm

    def forward(self, x: Tensor, encoder_output: EncoderOutput, state: DecodeState) -> Tensor:  # (B, T, D)
        for layer in self.layers:
            x = layer(x, encoder_output, state)
        return self.layer_norm(x)


class NllbModel(nn.Module):
    """From the token ids of a source and of a target to the logits of the target."""

    def __init__(
        self,
        *,
        encoder_frontend: nn.Module,
        encoder: NllbEncoder,
        decoder_frontend: nn.Module,
        decoder: NllbDecoder,
        final_proj: nn.Module,
    ) -> None:
        super().__init__()
        self.encoder_frontend = encoder_frontend
        self.encoder = encoder
        self.decoder_frontend = decoder_frontend
        self.decoder = decoder
        self.final_proj = final_proj

    def forward(
        self,
        source_ids: Tensor,
        token_ids: Tensor,
        source_padding_mask: Tensor | None = None,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Predict the next token of the target at every position.

        Args:
            source_ids: int64, (B, S).
            token_ids: The target, int64, (B, T).
            source_padding_mask: bool, (B, S), True where there is a token; None if
                there is one everywhere.
            padding_mask: Likewise of the target, (B, T).

        Returns:
            The logits, (B, T, V).
        """
        return self.decode(self.encode(source_ids, source_padding_mask), token_ids, padding_mask)

    def encode(self, source_ids: Tensor, padding_mask: Tensor | None = None) -> EncoderOutput:
        """What the decoder is to look at; for the arguments see `forward`."""
        state = EncodeState(source_ids, padding_mask)
        x = self.encoder_frontend(source_ids, state)  # (B, S, D)
        return EncoderOutput(self.encoder(x, state), padding_mask)

    def decode(
        self,
        encoder_output: EncoderOutput,
        token_ids: Tensor,
        padding_mask: Tensor | None = None,
        state: DecodeState | None = None,
    ) -> Tensor:
        """Predict the next token of the target, given the encoded source.

        Args:
            encoder_output: From `encode`.
            token_ids: The target, int64, (B, T).
            padding_mask: bool, (B, T), True where there is a token; None if there
                is one everywhere.
            state: What is kept from one pass to the next in cached decoding.

        Returns:
            The logits, (B, T, V).
        """
        state = DecodeState() if state is None else state
        state.extend(token_ids, padding_mask)
        x = self.decoder_frontend(token_ids, state)  # (B, T, D)
        x = self.decoder(x, encoder_output, state)
        return self.final_proj(x)

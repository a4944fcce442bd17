"""The config of Transformer, and how its parts are put together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from kinfold import VocabularyInfo
from kinfold.nn import (
    Attention,
    CrossAttention,
    EmbeddingFrontend,
    FeedForward,
    SinusoidalPositions,
    TiedEmbedding,
    TiedProjection,
    materialize,
    without_storage,
)
from kinfold.validation import checking
from torch import nn

from kinfold_zoo.transformer.model import (
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoder,
    TransformerEncoderLayer,
    TransformerModel,
)


@dataclass(kw_only=True)
class TransformerConfig:
    """Sizes of Transformer; the defaults are those of `base`."""

    model_dim: int = 512
    """Width of the residual stream."""

    num_encoder_layers: int = 6
    """Number of encoder layers."""

    num_decoder_layers: int = 6
    """Number of decoder layers."""

    num_encoder_heads: int = 8
    """Number of heads of an encoder layer."""

    num_decoder_heads: int = 8
    """Number of heads of a decoder layer."""

    ffn_inner_dim: int = 2048
    """Inner width of the feed-forward network."""

    vocab_size: int = 32768
    """Number of tokens in the vocabulary."""

    eos_idx: int = 1
    """The token that ends a sequence."""

    pad_idx: int = 0
    """The token that fills a sequence up."""

    max_seq_len: int = 1024
    """Longest sequence it was trained on, in tokens."""

    norm_eps: float = 1e-05
    """What norms add to the variance."""

    dropout_p: float = 0.1
    """How likely a value is left out in training."""

    init_std: float = 0.02
    """Standard deviation of fresh weights."""

    @property
    def vocab_info(self) -> VocabularyInfo:
        """The vocabulary and its special tokens."""
        return VocabularyInfo(
            self.vocab_size,
            eos_idx=self.eos_idx,
            pad_idx=self.pad_idx,
        )

    def validate(self) -> None:
        """Raise a `ConfigError` that lists every value that does not fit."""
        with checking(self) as check:
            check.positive(
                "model_dim",
                "num_encoder_layers",
                "num_decoder_layers",
                "num_encoder_heads",
                "num_decoder_heads",
                "ffn_inner_dim",
                "vocab_size",
                "max_seq_len",
                "norm_eps",
            )
            check.divides("num_encoder_heads", "model_dim")
            check.divides("num_decoder_heads", "model_dim")
            check.even("model_dim")
            check.share("dropout_p")
            check.index("eos_idx", "vocab_size")
            check.index("pad_idx", "vocab_size")


def create_transformer_model(
    config: TransformerConfig, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> TransformerModel:
    """Put a Transformer model together, with fresh weights.

    Args:
        config: Its sizes; validated here.
        device: Where the weights lie; torch's default device if None.
        dtype: The dtype of the weights; torch's default dtype if None.

    Raises:
        ConfigError: Values of the config do not fit together.
    """
    config.validate()
    with without_storage():  # parts first; they get their weights below
        embed = nn.Embedding(config.vocab_size, config.model_dim)  # of both sides
        model = TransformerModel(
            encoder_frontend=EmbeddingFrontend(
                TiedEmbedding(embed),
                scale=config.model_dim**0.5,
                position=SinusoidalPositions(config.model_dim, start=2),
                dropout=nn.Dropout(config.dropout_p),
            ),
            encoder=TransformerEncoder(
                [_create_encoder_layer(config) for _ in range(config.num_encoder_layers)],
            ),
            decoder_frontend=EmbeddingFrontend(
                embed,
                scale=config.model_dim**0.5,
                position=SinusoidalPositions(config.model_dim, start=2),
                dropout=nn.Dropout(config.dropout_p),
            ),
            decoder=TransformerDecoder(
                [_create_decoder_layer(config) for _ in range(config.num_decoder_layers)],
            ),
            final_proj=TiedProjection(embed),
        )
    return materialize(model, device=device, dtype=dtype, init_std=config.init_std)


def _create_encoder_layer(config: TransformerConfig) -> TransformerEncoderLayer:
    head_dim = config.model_dim // config.num_encoder_heads
    self_attn = Attention(
        q_proj=nn.Linear(config.model_dim, config.model_dim, bias=True),
        k_proj=nn.Linear(config.model_dim, config.model_dim, bias=True),
        v_proj=nn.Linear(config.model_dim, config.model_dim, bias=True),
        output_proj=nn.Linear(config.model_dim, config.model_dim, bias=True),
        head_dim=head_dim,
        dropout_p=config.dropout_p,
    )
    ffn = FeedForward(
        inner_proj=nn.Linear(config.model_dim, config.ffn_inner_dim, bias=True),
        output_proj=nn.Linear(config.ffn_inner_dim, config.model_dim, bias=True),
        activation=nn.ReLU(),
    )
    return TransformerEncoderLayer(
        self_attn=self_attn,
        self_attn_layer_norm=nn.LayerNorm(config.model_dim, eps=config.norm_eps),
        ffn=ffn,
        ffn_layer_norm=nn.LayerNorm(config.model_dim, eps=config.norm_eps),
        dropout=nn.Dropout(config.dropout_p),
    )


def _create_decoder_layer(config: TransformerConfig) -> TransformerDecoderLayer:
    head_dim = config.model_dim // config.num_decoder_heads
    self_attn = Attention(
        q_proj=nn.Linear(config.model_dim, config.model_dim, bias=True),
        k_proj=nn.Linear(config.model_dim, config.model_dim, bias=True),
        v_proj=nn.Linear(config.model_dim, config.model_dim, bias=True),
        output_proj=nn.Linear(config.model_dim, config.model_dim, bias=True),
        head_dim=head_dim,
        dropout_p=config.dropout_p,
    )
    encoder_decoder_attn = CrossAttention(
        q_proj=nn.Linear(config.model_dim, config.model_dim, bias=True),
        k_proj=nn.Linear(config.model_dim, config.model_dim, bias=True),
        v_proj=nn.Linear(config.model_dim, config.model_dim, bias=True),
        output_proj=nn.Linear(config.model_dim, config.model_dim, bias=True),
        head_dim=head_dim,
        dropout_p=config.dropout_p,
    )
    ffn = FeedForward(
        inner_proj=nn.Linear(config.model_dim, config.ffn_inner_dim, bias=True),
        output_proj=nn.Linear(config.ffn_inner_dim, config.model_dim, bias=True),
        activation=nn.ReLU(),
    )
    return TransformerDecoderLayer(
        self_attn=self_attn,
        self_attn_layer_norm=nn.LayerNorm(config.model_dim, eps=config.norm_eps),
        encoder_decoder_attn=encoder_decoder_attn,
        encoder_decoder_attn_layer_norm=nn.LayerNorm(config.model_dim, eps=config.norm_eps),
        ffn=ffn,
        ffn_layer_norm=nn.LayerNorm(config.model_dim, eps=config.norm_eps),
        dropout=nn.Dropout(config.dropout_p),
    )

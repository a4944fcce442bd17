"""The config of Mistral, and how its parts are put together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from kinfold import VocabularyInfo
from kinfold.nn import Attention, EmbeddingFrontend, GatedFeedForward, RMSNorm, Rotary, materialize, without_storage
from kinfold.validation import checking
from torch import nn

from kinfold_zoo.mistral.model import MistralDecoder, MistralDecoderLayer, MistralModel


@dataclass(kw_only=True)
class MistralConfig:
    """Sizes of Mistral; the defaults are those of `7b`."""

    model_dim: int = 4096
    """Width of the residual stream."""

    num_layers: int = 32
    """Number of decoder layers."""

    num_heads: int = 32
    """Number of query heads."""

    num_kv_heads: int = 8
    """Number of key and value heads."""

    head_dim: int = 128
    """Width of one head."""

    ffn_inner_dim: int = 14336
    """Inner width of the feed-forward network."""

    vocab_size: int = 32000
    """Number of tokens in the vocabulary."""

    unk_idx: int = 0
    """The token for what is not in the vocabulary."""

    bos_idx: int = 1
    """The token that begins a sequence."""

    eos_idx: int = 2
    """The token that ends a sequence."""

    max_seq_len: int = 32768
    """Longest sequence it was trained on, in tokens."""

    norm_eps: float = 1e-05
    """What norms add to the variance."""

    rope_theta: float = 10000.0
    """Base of the rotary frequencies."""

    sliding_window: int = 4096
    """How many tokens back attention reaches."""

    init_std: float = 0.02
    """Standard deviation of fresh weights."""

    @property
    def vocab_info(self) -> VocabularyInfo:
        """The vocabulary and its special tokens."""
        return VocabularyInfo(
            self.vocab_size,
            unk_idx=self.unk_idx,
            bos_idx=self.bos_idx,
            eos_idx=self.eos_idx,
        )

    def validate(self) -> None:
        """Raise a `ConfigError` that lists every value that does not fit."""
        with checking(self) as check:
            check.positive(
                "model_dim",
                "num_layers",
                "num_heads",
                "num_kv_heads",
                "head_dim",
                "ffn_inner_dim",
                "vocab_size",
                "max_seq_len",
                "norm_eps",
                "rope_theta",
            )
            check.divides("num_kv_heads", "num_heads")
            check.even("head_dim")
            check.positive_or_none("sliding_window")
            check.index("unk_idx", "vocab_size")
            check.index("bos_idx", "vocab_size")
            check.index("eos_idx", "vocab_size")


def create_mistral_model(
    config: MistralConfig, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> MistralModel:
    """Put a Mistral model together, with fresh weights.

    Args:
        config: Its sizes; validated here.
        device: Where the weights lie; torch's default device if None.
        dtype: The dtype of the weights; torch's default dtype if None.

    Raises:
        ConfigError: Values of the config do not fit together.
    """
    config.validate()
    with without_storage():  # parts first; they get their weights below
        embed = nn.Embedding(config.vocab_size, config.model_dim)
        position = Rotary(config.head_dim, theta=config.rope_theta)
        model = MistralModel(
            decoder_frontend=EmbeddingFrontend(embed),
            decoder=MistralDecoder(
                [_create_layer(config, position) for _ in range(config.num_layers)],
                layer_norm=RMSNorm(config.model_dim, eps=config.norm_eps),
            ),
            final_proj=nn.Linear(config.model_dim, config.vocab_size, bias=False),
        )
    return materialize(model, device=device, dtype=dtype, init_std=config.init_std)


def _create_layer(config: MistralConfig, position: Rotary) -> MistralDecoderLayer:
    q_dim = config.num_heads * config.head_dim
    kv_dim = config.num_kv_heads * config.head_dim
    self_attn = Attention(
        q_proj=nn.Linear(config.model_dim, q_dim, bias=False),
        k_proj=nn.Linear(config.model_dim, kv_dim, bias=False),
        v_proj=nn.Linear(config.model_dim, kv_dim, bias=False),
        output_proj=nn.Linear(q_dim, config.model_dim, bias=False),
        head_dim=config.head_dim,
        position=position,
        window=config.sliding_window,
    )
    ffn = GatedFeedForward(
        gate_proj=nn.Linear(config.model_dim, config.ffn_inner_dim, bias=False),
        inner_proj=nn.Linear(config.model_dim, config.ffn_inner_dim, bias=False),
        output_proj=nn.Linear(config.ffn_inner_dim, config.model_dim, bias=False),
        activation=nn.SiLU(),
    )
    return MistralDecoderLayer(
        self_attn=self_attn,
        self_attn_layer_norm=RMSNorm(config.model_dim, eps=config.norm_eps),
        ffn=ffn,
        ffn_layer_norm=RMSNorm(config.model_dim, eps=config.norm_eps),
    )

"""Transformer: the encoder and decoder of Vaswani et al. 2017."""

from kinfold_zoo.transformer.archs import transformer_arch, transformer_archs
from kinfold_zoo.transformer.factory import TransformerConfig, create_transformer_model
from kinfold_zoo.transformer.loader import load_transformer_model, shard_transformer_model
from kinfold_zoo.transformer.model import (
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoder,
    TransformerEncoderLayer,
    TransformerModel,
)

__all__ = [
    "TransformerConfig",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
    "TransformerModel",
    "create_transformer_model",
    "load_transformer_model",
    "shard_transformer_model",
    "transformer_arch",
    "transformer_archs",
]

"""Mistral: the decoder of Jiang et al. 2023, with grouped queries and a sliding ."""

from kinfold_zoo.mistral.archs import mistral_arch, mistral_archs
from kinfold_zoo.mistral.factory import MistralConfig, create_mistral_model
from kinfold_zoo.mistral.loader import load_mistral_model, shard_mistral_model
from kinfold_zoo.mistral.model import MistralDecoder, MistralDecoderLayer, MistralModel

__all__ = [
    "MistralConfig",
    "MistralDecoder",
    "MistralDecoderLayer",
    "MistralModel",
    "create_mistral_model",
    "load_mistral_model",
    "mistral_arch",
    "mistral_archs",
    "shard_mistral_model",
]

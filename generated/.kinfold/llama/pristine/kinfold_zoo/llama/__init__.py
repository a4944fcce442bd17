"""Llama: the decoder of Touvron et al. 2023 and Grattafiori et al. 2024."""

from kinfold_zoo.llama.archs import llama_arch, llama_archs
from kinfold_zoo.llama.factory import LlamaConfig, create_llama_model
from kinfold_zoo.llama.loader import load_llama_model, shard_llama_model
from kinfold_zoo.llama.model import LlamaDecoder, LlamaDecoderLayer, LlamaModel

__all__ = [
    "LlamaConfig",
    "LlamaDecoder",
    "LlamaDecoderLayer",
    "LlamaModel",
    "create_llama_model",
    "llama_arch",
    "llama_archs",
    "load_llama_model",
    "shard_llama_model",
]

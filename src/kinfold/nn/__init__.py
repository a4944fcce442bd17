"""The building blocks that families are composed of.

A model is put together `without_storage` and then gets it by `materialize`; no block holds a buffer.
"""

from torch.nn import LayerNorm

from kinfold.nn.absolute_position import LearnedPositions, SinusoidalPositions
from kinfold.nn.attention import Attention, CrossAttention, MultiHeadAttention
from kinfold.nn.embedding import EmbeddingFrontend, TiedEmbedding, TiedProjection
from kinfold.nn.ffn import FeedForward, GatedFeedForward, scaled_inner_dim
from kinfold.nn.init import materialize, without_storage
from kinfold.nn.norm import RMSNorm
from kinfold.nn.position import Rotary
from kinfold.nn.rope_scaling import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    RopeScaling,
    YarnScaling,
)
from kinfold.nn.state import DecodeState, EncoderOutput, EncodeState, PassState

__all__ = [
    "Attention",
    "CrossAttention",
    "DecodeState",
    "DynamicScaling",
    "EmbeddingFrontend",
    "EncodeState",
    "EncoderOutput",
    "FeedForward",
    "GatedFeedForward",
    "LayerNorm",
    "LearnedPositions",
    "LinearScaling",
    "Llama3Scaling",
    "LongRopeScaling",
    "MultiHeadAttention",
    "PassState",
    "RMSNorm",
    "RopeScaling",
    "Rotary",
    "SinusoidalPositions",
    "TiedEmbedding",
    "TiedProjection",
    "YarnScaling",
    "materialize",
    "scaled_inner_dim",
    "without_storage",
]

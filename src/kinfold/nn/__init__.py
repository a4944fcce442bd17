"""The building blocks that families are composed of.

A model is put together `without_storage` and then gets it by `materialize`; no block holds a buffer.
"""

from torch.nn import LayerNorm

from kinfold.nn.attention import Attention
from kinfold.nn.embedding import DecoderFrontend, TiedProjection
from kinfold.nn.ffn import FeedForward, GatedFeedForward
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
from kinfold.nn.state import DecodeState

__all__ = [
    "Attention",
    "DecodeState",
    "DecoderFrontend",
    "DynamicScaling",
    "FeedForward",
    "GatedFeedForward",
    "LayerNorm",
    "LinearScaling",
    "Llama3Scaling",
    "LongRopeScaling",
    "RMSNorm",
    "RopeScaling",
    "Rotary",
    "TiedProjection",
    "YarnScaling",
    "materialize",
    "without_storage",
]

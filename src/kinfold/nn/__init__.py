"""The building blocks that families are composed of.

A model is put together `without_storage` and then gets it by `materialize`; no block holds a buffer.
"""

from kinfold.nn.absolute_position import LearnedPositions, SinusoidalPositions
from kinfold.nn.activation import XIELU, QuickGELU, ReLUSquared
from kinfold.nn.attention import Attention, CrossAttention, MultiHeadAttention
from kinfold.nn.bias import Alibi
from kinfold.nn.differential_attention import DifferentialAttention, lambda_init
from kinfold.nn.dynamic_mask import DynamicMask
from kinfold.nn.embedding import EmbeddingFrontend, TiedEmbedding, TiedProjection
from kinfold.nn.ffn import FeedForward, GatedFeedForward, scaled_inner_dim
from kinfold.nn.init import materialize, without_storage
from kinfold.nn.latent_attention import LatentAttention
from kinfold.nn.layers import LearnedScale, in_turns
from kinfold.nn.norm import LayerNorm, RMSNorm
from kinfold.nn.output import Transform, soft_cap
from kinfold.nn.per_head import HeadBias, Sinks
from kinfold.nn.position import Rotary
from kinfold.nn.query_scaling import LogQueryScaling, PowerQueryScaling, QueryScaling
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
    "XIELU",
    "Alibi",
    "Attention",
    "CrossAttention",
    "DecodeState",
    "DifferentialAttention",
    "DynamicMask",
    "DynamicScaling",
    "EmbeddingFrontend",
    "EncodeState",
    "EncoderOutput",
    "FeedForward",
    "GatedFeedForward",
    "HeadBias",
    "LatentAttention",
    "LayerNorm",
    "LearnedPositions",
    "LearnedScale",
    "LinearScaling",
    "Llama3Scaling",
    "LogQueryScaling",
    "LongRopeScaling",
    "MultiHeadAttention",
    "PassState",
    "PowerQueryScaling",
    "QueryScaling",
    "QuickGELU",
    "RMSNorm",
    "ReLUSquared",
    "RopeScaling",
    "Rotary",
    "Sinks",
    "SinusoidalPositions",
    "TiedEmbedding",
    "TiedProjection",
    "Transform",
    "YarnScaling",
    "in_turns",
    "lambda_init",
    "materialize",
    "scaled_inner_dim",
    "soft_cap",
    "without_storage",
]

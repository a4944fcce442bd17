"""The sizes of an arch: which there are, what they are when nobody says, and which of them a structure has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from kinfold.scaffold.spec.scaling import QueryScaling, RopeScaling
from kinfold.scaffold.spec.section import Section

ModelKind = Literal["decoder", "encoder_decoder"]


class Sizes(Section, frozen=True, kw_only=True):
    """All sizes of one arch; those that its structure does not have stay as they are here."""

    model_dim: int = 2048
    embedding_dim: int | None = None
    num_layers: int = 16
    num_encoder_layers: int = 6
    num_decoder_layers: int = 6
    num_heads: int = 32
    num_kv_heads: int = 32
    num_encoder_heads: int = 32
    num_decoder_heads: int = 32
    head_dim: int = 64
    value_head_dim: int = 64
    q_latent_dim: int | None = None
    kv_latent_dim: int = 512
    latent_norm_eps: float = 1e-6
    rotary_dim: int = 64
    ffn_inner_dim: int = 8192
    ffn_inner_dim_multiplier: float = 1.0
    ffn_inner_dim_to_multiple: int = 1
    vocab_size: int = 128256
    unk_idx: int | None = None
    bos_idx: int | None = None
    eos_idx: int | None = None
    pad_idx: int | None = None
    max_seq_len: int = 8192
    norm_eps: float = 1e-5
    rope_theta: float | tuple[float, ...] = 500000.0
    rope_scaling: RopeScaling | None = None
    query_scaling: QueryScaling | None = None
    alibi_max_bias: float = 8.0
    sliding_window: int | None = None
    window_pattern: tuple[bool, ...] = (True,)
    dynamic_mask_keep: int = 2048
    attention_scale: float | None = None
    attention_cap: float | None = None
    qkv_clip: float | None = None
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    logit_cap: float | None = None
    dropout_p: float = 0.0
    tied_embeddings: bool = False


class Arch(Section, frozen=True, kw_only=True):
    """The sizes that one arch sets; what it leaves out is as in the first arch, and there as in `Sizes`."""

    model_dim: Annotated[int | UnsetType, Meta(description="Width of the residual stream.")] = UNSET
    embedding_dim: Annotated[
        int | UnsetType | None, Meta(description="Width of the embeddings, where it is not that of the model.")
    ] = UNSET
    num_layers: Annotated[int | UnsetType, Meta(description="Number of decoder layers.")] = UNSET
    num_encoder_layers: Annotated[int | UnsetType, Meta(description="Number of encoder layers.")] = UNSET
    num_decoder_layers: Annotated[int | UnsetType, Meta(description="Number of decoder layers.")] = UNSET
    num_heads: Annotated[int | UnsetType, Meta(description="Number of query heads.")] = UNSET
    num_kv_heads: Annotated[int | UnsetType, Meta(description="Number of key and value heads.")] = UNSET
    num_encoder_heads: Annotated[int | UnsetType, Meta(description="Number of heads of an encoder layer.")] = UNSET
    num_decoder_heads: Annotated[int | UnsetType, Meta(description="Number of heads of a decoder layer.")] = UNSET
    head_dim: Annotated[int | UnsetType, Meta(description="Width of one head.")] = UNSET
    value_head_dim: Annotated[int | UnsetType, Meta(description="Width of the values of one head.")] = UNSET
    q_latent_dim: Annotated[
        int | UnsetType | None,
        Meta(description="Width of the latent vectors that queries are made of; null: of the input itself."),
    ] = UNSET
    kv_latent_dim: Annotated[
        int | UnsetType, Meta(description="Width of the latent vectors that keys and values are made of.")
    ] = UNSET
    latent_norm_eps: Annotated[
        float | UnsetType, Meta(description="What norms of latent vectors add to the variance.")
    ] = UNSET
    rotary_dim: Annotated[
        int | UnsetType, Meta(description="How many dimensions of a head turn with the position.")
    ] = UNSET
    ffn_inner_dim: Annotated[int | UnsetType, Meta(description="Inner width of the feed-forward network.")] = UNSET
    ffn_inner_dim_multiplier: Annotated[
        float | UnsetType, Meta(description="What `ffn_inner_dim` is multiplied by first.")
    ] = UNSET
    ffn_inner_dim_to_multiple: Annotated[
        int | UnsetType, Meta(description="What it is then rounded up to a multiple of.")
    ] = UNSET
    vocab_size: Annotated[int | UnsetType, Meta(description="Number of tokens in the vocabulary.")] = UNSET
    unk_idx: Annotated[int | UnsetType | None, Meta(description="The token for what is not in the vocabulary.")] = UNSET
    bos_idx: Annotated[int | UnsetType | None, Meta(description="The token that begins a sequence.")] = UNSET
    eos_idx: Annotated[int | UnsetType | None, Meta(description="The token that ends a sequence.")] = UNSET
    pad_idx: Annotated[int | UnsetType | None, Meta(description="The token that fills a sequence up.")] = UNSET
    max_seq_len: Annotated[int | UnsetType, Meta(description="Longest sequence it was trained on, in tokens.")] = UNSET
    norm_eps: Annotated[float | UnsetType, Meta(description="What norms add to the variance.")] = UNSET
    rope_theta: Annotated[
        float | tuple[float, ...] | UnsetType,
        Meta(description="Base of the rotary frequencies, or those of the layers, in turns; 0 turns nothing."),
    ] = UNSET
    rope_scaling: Annotated[RopeScaling | UnsetType | None, Meta(description="How rotary positions are stretched.")] = (
        UNSET
    )
    query_scaling: Annotated[
        QueryScaling | UnsetType | None, Meta(description="How queries grow with their positions.")
    ] = UNSET
    alibi_max_bias: Annotated[
        float | UnsetType, Meta(description="The largest exponent of the slopes, which are powers of 1/2.")
    ] = UNSET
    sliding_window: Annotated[int | UnsetType | None, Meta(description="How many tokens back attention reaches.")] = (
        UNSET
    )
    window_pattern: Annotated[
        tuple[bool, ...] | UnsetType, Meta(description="Which layers have the window, in turns.")
    ] = UNSET
    dynamic_mask_keep: Annotated[
        int | UnsetType, Meta(description="How many keys a query sees at most with a dynamic mask.")
    ] = UNSET
    attention_scale: Annotated[
        float | UnsetType | None,
        Meta(description="What scores are multiplied by; null: one over the square root of `head_dim`."),
    ] = UNSET
    attention_cap: Annotated[float | UnsetType | None, Meta(description="What scores are softly capped at.")] = UNSET
    qkv_clip: Annotated[float | UnsetType | None, Meta(description="What queries, keys and values are clipped at.")] = (
        UNSET
    )
    embedding_scale: Annotated[float | UnsetType, Meta(description="What embeddings are multiplied by.")] = UNSET
    residual_scale: Annotated[float | UnsetType, Meta(description="What a sublayer gives is multiplied by.")] = UNSET
    logit_scale: Annotated[float | UnsetType, Meta(description="What logits are multiplied by.")] = UNSET
    logit_cap: Annotated[float | UnsetType | None, Meta(description="What logits are softly capped at.")] = UNSET
    dropout_p: Annotated[float | UnsetType, Meta(description="How likely a value is left out in training.")] = UNSET
    tied_embeddings: Annotated[
        bool | UnsetType, Meta(title="tied embeddings", description="The output projection is the embedding.")
    ] = UNSET
    description: Annotated[str, Meta(description="One line about this arch.")] = ""


TOKENS = ("unk_idx", "bos_idx", "eos_idx", "pad_idx")
"""The sizes that are no sizes but special tokens."""

OPTIONAL: Mapping[str, Any] = {
    "embedding_dim": None,
    "q_latent_dim": None,
    "ffn_inner_dim_multiplier": 1.0,
    "ffn_inner_dim_to_multiple": 1,
    **dict.fromkeys(TOKENS),
    "rope_scaling": None,
    "query_scaling": None,
    "alibi_max_bias": 8.0,
    "sliding_window": None,
    "window_pattern": (True,),
    "attention_scale": None,
    "attention_cap": None,
    "qkv_clip": None,
    "embedding_scale": 1.0,
    "residual_scale": 1.0,
    "logit_scale": 1.0,
    "logit_cap": None,
    "dropout_p": 0.0,
}
"""The sizes that a config need not have, and the value at which it is without."""

_OF_DECODER = frozenset({
    "embedding_dim", "num_layers", "num_heads", "num_kv_heads", "head_dim", "value_head_dim", "q_latent_dim",
    "kv_latent_dim", "latent_norm_eps", "rotary_dim", "rope_theta", "rope_scaling", "query_scaling", "alibi_max_bias",
    "sliding_window", "window_pattern", "dynamic_mask_keep", "attention_scale", "attention_cap", "qkv_clip",
    "embedding_scale", "residual_scale", "logit_scale", "logit_cap",
})  # fmt: skip
_OF_BOTH = frozenset({"num_encoder_layers", "num_decoder_layers", "num_encoder_heads", "num_decoder_heads"})
_OF_ROTARY = frozenset({"rotary_dim", "rope_theta", "rope_scaling"})
_OF_LATENT = frozenset({"value_head_dim", "q_latent_dim", "kv_latent_dim", "latent_norm_eps"})


def sizes_of(kind: ModelKind, *, position: str, attention: str, dynamic_mask: bool) -> list[str]:
    """The names of the sizes that a structure can have, in their order.

    Args:
        kind: `model` in the spec.
        position: `position.kind`.
        attention: `attention.kind`.
        dynamic_mask: `attention.dynamic_mask`.
    """
    absent = set(_OF_BOTH if kind == "decoder" else _OF_DECODER)
    absent |= set() if position == "rotary" else _OF_ROTARY
    absent |= set() if position == "alibi" else {"alibi_max_bias"}
    absent |= set() if dynamic_mask else {"dynamic_mask_keep"}
    absent |= {"num_kv_heads"} if attention == "latent" else _OF_LATENT
    return [name for name in Sizes.__struct_fields__ if name not in absent]


def stated(arch: Arch) -> dict[str, Any]:
    """The sizes that an arch sets itself."""
    return {name: value for name in Sizes.__struct_fields__ if (value := getattr(arch, name)) is not UNSET}


def complete(values: Mapping[str, Any]) -> Sizes:
    """All sizes, given some; where nobody says, heads share the width, and each has its own key and value."""
    sizes = Sizes(**values)
    heads = sizes.num_heads
    head_dim = values.get("head_dim", sizes.model_dim // heads if heads > 0 else 0)
    derived = {"num_kv_heads": heads, "head_dim": head_dim, "value_head_dim": head_dim, "rotary_dim": head_dim}
    return msgspec.structs.replace(sizes, **{name: v for name, v in derived.items() if name not in values})


def in_turns(sizes: Sizes) -> Sizes:
    """The same, with its bases of rotary frequencies as a tuple, even where all layers have the same."""
    thetas = sizes.rope_theta if isinstance(sizes.rope_theta, tuple) else (sizes.rope_theta,)
    return msgspec.structs.replace(sizes, rope_theta=thetas)

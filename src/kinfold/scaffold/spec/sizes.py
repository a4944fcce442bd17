"""The sizes of an arch: which there are, what they are when nobody says, and which of them a structure has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from kinfold.scaffold.spec.scaling import RopeScaling
from kinfold.scaffold.spec.section import Section

ModelKind = Literal["decoder", "encoder_decoder"]


class Sizes(Section, frozen=True, kw_only=True):
    """All sizes of one arch; those that its structure does not have stay as they are here."""

    model_dim: int = 2048
    num_layers: int = 16
    num_encoder_layers: int = 6
    num_decoder_layers: int = 6
    num_heads: int = 32
    num_kv_heads: int = 32
    num_encoder_heads: int = 32
    num_decoder_heads: int = 32
    head_dim: int = 64
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
    rope_theta: float = 500000.0
    rope_scaling: RopeScaling | None = None
    sliding_window: int | None = None
    dropout_p: float = 0.0
    tied_embeddings: bool = False


class Arch(Section, frozen=True, kw_only=True):
    """The sizes that one arch sets; what it leaves out is as in the first arch, and there as in `Sizes`."""

    model_dim: Annotated[int | UnsetType, Meta(description="Width of the residual stream.")] = UNSET
    num_layers: Annotated[int | UnsetType, Meta(description="Number of decoder layers.")] = UNSET
    num_encoder_layers: Annotated[int | UnsetType, Meta(description="Number of encoder layers.")] = UNSET
    num_decoder_layers: Annotated[int | UnsetType, Meta(description="Number of decoder layers.")] = UNSET
    num_heads: Annotated[int | UnsetType, Meta(description="Number of query heads.")] = UNSET
    num_kv_heads: Annotated[int | UnsetType, Meta(description="Number of key and value heads.")] = UNSET
    num_encoder_heads: Annotated[int | UnsetType, Meta(description="Number of heads of an encoder layer.")] = UNSET
    num_decoder_heads: Annotated[int | UnsetType, Meta(description="Number of heads of a decoder layer.")] = UNSET
    head_dim: Annotated[int | UnsetType, Meta(description="Width of one head.")] = UNSET
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
    rope_theta: Annotated[float | UnsetType, Meta(description="Base of the rotary frequencies.")] = UNSET
    rope_scaling: Annotated[RopeScaling | UnsetType | None, Meta(description="How rotary positions are stretched.")] = (
        UNSET
    )
    sliding_window: Annotated[int | UnsetType | None, Meta(description="How many tokens back attention reaches.")] = (
        UNSET
    )
    dropout_p: Annotated[float | UnsetType, Meta(description="How likely a value is left out in training.")] = UNSET
    tied_embeddings: Annotated[
        bool | UnsetType, Meta(title="tied embeddings", description="The output projection is the embedding.")
    ] = UNSET
    description: Annotated[str, Meta(description="One line about this arch.")] = ""


OF_KIND: Mapping[ModelKind, frozenset[str]] = {
    "decoder": frozenset({"num_layers", "num_heads", "num_kv_heads", "head_dim", "sliding_window"}),
    "encoder_decoder": frozenset(
        {"num_encoder_layers", "num_decoder_layers", "num_encoder_heads", "num_decoder_heads"}
    ),
}
"""The sizes that only one kind of model has."""

OF_ROTARY = frozenset({"rope_theta", "rope_scaling"})
"""The sizes that only models with rotary positions have."""

TOKENS = ("unk_idx", "bos_idx", "eos_idx", "pad_idx")
"""The sizes that are no sizes but special tokens."""

OPTIONAL: Mapping[str, Any] = {
    "ffn_inner_dim_multiplier": 1.0,
    "ffn_inner_dim_to_multiple": 1,
    **dict.fromkeys(TOKENS),
    "rope_scaling": None,
    "sliding_window": None,
    "dropout_p": 0.0,
}
"""The sizes that a config need not have, and the value at which it is without."""


def sizes_of(kind: ModelKind, *, rotary: bool) -> list[str]:
    """The names of the sizes that a structure can have, in their order."""
    others = {name for other, names in OF_KIND.items() if other != kind for name in names}
    return [name for name in Sizes.__struct_fields__ if name not in others and (rotary or name not in OF_ROTARY)]


def stated(arch: Arch) -> dict[str, Any]:
    """The sizes that an arch sets itself."""
    return {name: value for name in Sizes.__struct_fields__ if (value := getattr(arch, name)) is not UNSET}


def complete(values: Mapping[str, Any]) -> Sizes:
    """All sizes, given some; where nobody says, heads share the width, and each has its own key and value."""
    sizes = Sizes(**values)
    heads = sizes.num_heads
    derived = {"num_kv_heads": heads, "head_dim": sizes.model_dim // heads if heads > 0 else 0}
    return msgspec.structs.replace(sizes, **{name: v for name, v in derived.items() if name not in values})

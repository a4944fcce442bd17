"""The config.json of encoders and decoders, which transformers knows as M2M-100."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from kinfold.conversion.hf_parts import (
    TOKEN_FIELDS,
    activation,
    activation_faults,
    parameter_patterns,
    refuse,
    special_tokens,
)

if TYPE_CHECKING:
    from torch import nn

_KEYS: Mapping[str, tuple[str, ...]] = {
    "model_dim": ("d_model",),
    "num_encoder_layers": ("encoder_layers",),
    "num_decoder_layers": ("decoder_layers",),
    "num_encoder_heads": ("encoder_attention_heads",),
    "num_decoder_heads": ("decoder_attention_heads",),
    "ffn_inner_dim": ("encoder_ffn_dim", "decoder_ffn_dim"),
    "vocab_size": ("vocab_size",),
    "max_seq_len": ("max_position_embeddings",),
    "init_std": ("init_std",),
}
"""Field of a family's config to the keys that say it."""

_KNOWN = frozenset({*_KEYS, *TOKEN_FIELDS, "dropout_p", "norm_eps"})


def _leaves(modules: list[str]) -> set[str]:
    return {f"{module}.{leaf}" for module in modules for leaf in ("weight", "bias")}


def _stack(name: str, attentions: tuple[str, ...]) -> set[str]:
    layer = f"{name}.layers.N"
    projections = [f"{layer}.{attn}.{proj}_proj" for attn in attentions for proj in ("q", "k", "v", "output")]
    norms = [f"{layer}.{sublayer}_layer_norm" for sublayer in (*attentions, "ffn")]
    return _leaves([*projections, *norms, f"{layer}.ffn.inner_proj", f"{layer}.ffn.output_proj", f"{name}.layer_norm"])


_PARAMETERS = {
    "decoder_frontend.embed.weight",
    *_stack("encoder", ("self_attn",)),
    *_stack("decoder", ("self_attn", "encoder_decoder_attn")),
}
"""What an M2M-100 has, and nothing else: every bias, norms before the sublayers, one embedding for all."""

_EPS = 1e-5


def make_m2m_100_config(config: Any, model: nn.Module, *, dtype: str, tokens: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json with which transformers computes what an encoder and decoder computes.

    Arguments and errors are those of `make_hf_config`.
    """
    special = special_tokens(config, tokens)
    refuse(list(_faults(config, model, special)))
    dropout_p = getattr(config, "dropout_p", 0.0)
    return {
        "architectures": ["M2M100ForConditionalGeneration"],
        "model_type": "m2m_100",
        **{key: getattr(config, field) for field, keys in _KEYS.items() for key in keys},
        "activation_function": activation(model),
        "dropout": dropout_p,
        "attention_dropout": dropout_p,
        "activation_dropout": 0.0,
        "encoder_layerdrop": 0.0,
        "decoder_layerdrop": 0.0,
        "scale_embedding": model.get_submodule("decoder_frontend").scale != 1.0,
        "is_encoder_decoder": True,
        "tie_word_embeddings": True,
        "dtype": dtype,
        **special,
        "decoder_start_token_id": special["eos_token_id"],
    }


def _faults(config: Any, model: nn.Module, special: Mapping[str, Any]) -> Iterator[str]:
    for field in fields(config):
        if field.name not in _KNOWN:
            yield f"the field {field.name} = {getattr(config, field.name)!r}"
    names = parameter_patterns(model)
    yield from (f"the parameter {name}" for name in sorted(names - _PARAMETERS))
    yield from (f"no parameter {name}" for name in sorted(_PARAMETERS - names))
    if config.norm_eps != _EPS:
        yield f"norm_eps = {config.norm_eps}: M2M-100 has {_EPS}"
    yield from activation_faults(model)
    for name in ("encoder_frontend", "decoder_frontend"):
        yield from _frontend_faults(name, model.get_submodule(name), config.model_dim, special["pad_token_id"])


def _frontend_faults(name: str, frontend: Any, model_dim: int, pad_token_id: int | None) -> Iterator[str]:
    if frontend.scale not in (1.0, model_dim**0.5):
        yield f"{name}: embeddings that are multiplied by {frontend.scale}"
    kind = type(frontend.position).__name__
    if kind != "SinusoidalPositions":
        yield f"{name}: positions of the kind {kind}"
    elif pad_token_id is None or frontend.position.start != pad_token_id + 1:
        yield (
            f"{name}: positions that begin at {frontend.position.start}, where padding is the token {pad_token_id}: "
            "those of M2M-100 begin behind its number"
        )

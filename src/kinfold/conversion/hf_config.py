"""config.json of Hugging Face, from the config of a family, by tables; and what such a config says of a family's.

The tables know decoders of the Llama shape; encoders and decoders have a module of their own. The model type follows
from which optional parts there are, and from nothing else; what the tables do not know is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass
from math import isclose
from typing import TYPE_CHECKING, Any

from kinfold.conversion.hf_llama import computes_as_llama
from kinfold.conversion.hf_m2m_100 import make_m2m_100_config
from kinfold.conversion.hf_parts import (
    ACTIVATIONS,
    TOKEN_FIELDS,
    activation,
    activation_faults,
    parameter_patterns,
    refuse,
    special_tokens,
)
from kinfold.errors import ConfigError
from kinfold.generation import EncoderDecoder
from kinfold.nn import EmbeddingFrontend

if TYPE_CHECKING:
    from torch import nn

    from kinfold.loader import CreateModel

_KEYS: Mapping[str, str] = {
    "model_dim": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "vocab_size": "vocab_size",
    "max_seq_len": "max_position_embeddings",
    "norm_eps": "rms_norm_eps",
    "rope_theta": "rope_theta",
    "init_std": "initializer_range",
    "sliding_window": "sliding_window",
}
"""Field of a family's config to the key that says it."""

_OTHERWISE = frozenset({
    *TOKEN_FIELDS, "ffn_inner_dim", "ffn_inner_dim_multiplier", "ffn_inner_dim_to_multiple", "rope_scaling",
    "tied_embeddings",
})  # fmt: skip
"""Fields that are said in another way, or nowhere."""

_GGUF_KEYS: Mapping[str, str] = {
    "num_heads": "attention.head_count",
    "num_kv_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_seq_len": "context_length",
    "norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
}
"""The same in the metadata of GGUF files, after the architecture's prefix."""

_NOT_IN_SHAPES = tuple(_GGUF_KEYS)
"""Fields that no shape of a tensor gives away."""

_ROPE_TYPES: Mapping[str, str] = {
    "LinearScaling": "linear", "DynamicScaling": "dynamic", "Llama3Scaling": "llama3", "YarnScaling": "yarn",
    "LongRopeScaling": "longrope",
}  # fmt: skip
_ROPE_KEYS: Mapping[str, str] = {
    "factor": "factor",
    "original_max_seq_len": "original_max_position_embeddings",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "attention_factor": "attention_factor",
    "mscale": "mscale",
    "mscale_all_dim": "mscale_all_dim",
    "truncate": "truncate",
    "short_factors": "short_factor",
    "long_factors": "long_factor",
}

_MODULES = frozenset({
    "Attention", "Embedding", "EmbeddingFrontend", "GatedFeedForward", "Linear", "ModuleList", "RMSNorm", "Rotary",
    "TiedProjection", *(text.partition("(")[0] for text in ACTIVATIONS),
})  # fmt: skip
"""The classes of torch and of `kinfold.nn` that Llama-shaped decoders are made of."""

_LAYER = "decoder.layers.N."
_ALWAYS = frozenset({
    "decoder_frontend.embed.weight", "decoder.layer_norm.weight",
    *(f"{_LAYER}self_attn.{name}_proj.weight" for name in ("q", "k", "v", "output")),
    *(f"{_LAYER}ffn.{name}_proj.weight" for name in ("gate", "inner", "output")),
    *(f"{_LAYER}{name}.weight" for name in ("self_attn_layer_norm", "ffn_layer_norm")),
})  # fmt: skip
_UNTIED = "final_proj.weight"
_PARTS: Mapping[str, frozenset[str]] = {
    "biases of q, k and v": frozenset(f"{_LAYER}self_attn.{name}_proj.bias" for name in ("q", "k", "v")),
    "a bias of the attention's output": frozenset({f"{_LAYER}self_attn.output_proj.bias"}),
    "biases of the feed-forward network": frozenset(
        f"{_LAYER}ffn.{name}_proj.bias" for name in ("gate", "inner", "output")
    ),
    "norms of q and k": frozenset(f"{_LAYER}self_attn.{name}_norm.weight" for name in ("q", "k")),
}
"""Optional parts, by the parameters that they have."""

_QKV, _OUT, _FFN, _QK_NORM = _PARTS
_WINDOW = "a sliding window"
_ATTENTION, _WINDOWED = {"attention_bias": True}, {"use_sliding_window": True, "max_window_layers": 0}

_TYPES: Mapping[frozenset[str], tuple[str, str, Mapping[str, Any]]] = {
    frozenset(): ("llama", "Llama", {}),
    frozenset({_QKV, _OUT}): ("llama", "Llama", _ATTENTION),
    frozenset({_FFN}): ("llama", "Llama", {"mlp_bias": True}),
    frozenset({_QKV, _OUT, _FFN}): ("llama", "Llama", {**_ATTENTION, "mlp_bias": True}),
    frozenset({_WINDOW}): ("mistral", "Mistral", {}),
    frozenset({_QKV}): ("qwen2", "Qwen2", {}),
    frozenset({_QKV, _WINDOW}): ("qwen2", "Qwen2", _WINDOWED),
    frozenset({_QK_NORM}): ("qwen3", "Qwen3", {}),
    frozenset({_QK_NORM, _WINDOW}): ("qwen3", "Qwen3", _WINDOWED),
    frozenset({_QK_NORM, _QKV, _OUT}): ("qwen3", "Qwen3", _ATTENTION),
    frozenset({_QK_NORM, _QKV, _OUT, _WINDOW}): ("qwen3", "Qwen3", {**_ATTENTION, **_WINDOWED}),
}
"""Which optional parts there are, to the model type that has just these, and the keys that switch them on."""


def make_hf_config(
    config: Any, model: nn.Module, *, create: CreateModel, dtype: str, tokens: Mapping[str, Any]
) -> dict[str, Any]:
    """The config.json with which transformers computes what a model of a family computes.

    Args:
        config: The config of the family.
        model: The model, which may be on the meta device.
        create: Makes models of the family: a small one is held against what transformers would compute.
        dtype: The dtype of the weights, as torch calls it.
        tokens: The ids of special tokens (`bos_token_id` and so on); those that are not known are null.

    Raises:
        ConfigError: Lists everything that the tables do not know.
    """
    if isinstance(model, EncoderDecoder):
        return make_m2m_100_config(config, model, dtype=dtype, tokens=tokens)
    faults = list(_faults(config, model))
    names = parameter_patterns(model)
    parts = {part for part, parameters in _PARTS.items() if parameters <= names}
    parts |= {_WINDOW} if getattr(config, "sliding_window", None) else set()
    faults += [f"the parameter {name}" for name in sorted(names - _ALWAYS - {_UNTIED} - _parameters(parts))]
    if not faults and frozenset(parts) not in _TYPES:
        faults.append(f"together: {', '.join(sorted(parts))}")
    if not faults and not computes_as_llama(create, config):
        faults.append("a computation that is not Llama's, though its parameters are")
    refuse(faults)
    model_type, prefix, switches = _TYPES[frozenset(parts)]
    values = {key: getattr(config, field) for field, key in _KEYS.items() if getattr(config, field, None) is not None}
    values.setdefault(_KEYS["num_kv_heads"], config.num_heads)
    return {
        "architectures": [f"{prefix}ForCausalLM"],
        "model_type": model_type,
        **values,
        "intermediate_size": model.get_parameter("decoder.layers.0.ffn.inner_proj.weight").shape[0],
        **switches,
        "hidden_act": activation(model),
        "rope_scaling": rope_scaling(getattr(config, "rope_scaling", None)),
        "tie_word_embeddings": _UNTIED not in names,
        "dtype": dtype,
        **special_tokens(config, tokens),
    }


def rope_scaling(scaling: Any) -> dict[str, Any] | None:
    """A scaling of `kinfold.nn` as Hugging Face's configs say it."""
    if scaling is None:
        return None
    values = {_ROPE_KEYS[name]: value for name, value in asdict(scaling).items() if value is not None}
    return {"rope_type": _ROPE_TYPES[type(scaling).__name__], **values}


def stated_otherwise(config: Any, foreign: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint's own config says of fields that no shape gives away, where it is not what `config` has.

    Args:
        config: The config of the family.
        foreign: What config.json holds, or the metadata of a GGUF file.

    Raises:
        ConfigError: Rotary positions are stretched in another way.
    """
    rope = next((foreign[key] for key in ("rope_parameters", "rope_scaling") if isinstance(foreign.get(key), dict)), {})
    _check_scaling(config, foreign, rope)
    prefix = f"{foreign.get('general.architecture')}."
    found = {}
    for field in _NOT_IN_SHAPES:
        key, known = _KEYS[field], getattr(config, field, None)
        for stated in (foreign.get(key), rope.get(key), foreign.get(prefix + _GGUF_KEYS[field])):
            if not isinstance(stated, int | float) or not isinstance(known, int | float):
                continue
            if not isclose(stated, known, rel_tol=1e-6):  # GGUF has float32
                found[field] = int(stated) if isinstance(known, int) else float(stated)
    return found


def _check_scaling(config: Any, foreign: Mapping[str, Any], rope: Mapping[str, Any]) -> None:
    ours = _plain(rope_scaling(getattr(config, "rope_scaling", None)) or {"rope_type": "default"})
    theirs = {**rope, "rope_type": rope.get("rope_type", rope.get("type", "default"))}
    if "model_type" in foreign and any(key in theirs and theirs[key] != value for key, value in ours.items()):
        raise ConfigError(
            f"The checkpoint stretches rotary positions by {dict(theirs)}, the arch by {ours}.",
            hint="Name the arch (`arch=...`, `--arch`), or a card that says how.",
        )


def _faults(config: Any, model: nn.Module) -> Iterator[str]:
    if not is_dataclass(config):
        yield f"a config that is a {type(config).__name__}, not a dataclass"
        return
    for field in fields(config):
        if field.name not in _KEYS and field.name not in _OTHERWISE:
            yield f"the field {field.name} = {getattr(config, field.name)!r}"
    for field in _KEYS.keys() - {"init_std", "num_kv_heads", "sliding_window"}:
        if getattr(config, field, None) is None:
            yield f"no field {field}"
    scaling = getattr(config, "rope_scaling", None)
    if scaling is not None and type(scaling).__name__ not in _ROPE_TYPES:
        yield f"rope_scaling = {scaling!r}"
    libraries = ("torch.", "kinfold.nn")
    used = {type(module).__name__ for module in model.modules() if type(module).__module__.startswith(libraries)}
    yield from (f"a part of the class {name}" for name in sorted(used - _MODULES))
    if scales := {module.scale for module in model.modules() if isinstance(module, EmbeddingFrontend)} - {1.0}:
        yield f"embeddings that are multiplied by {', '.join(map(str, sorted(scales)))}"
    yield from activation_faults(model)


def _parameters(parts: set[str]) -> set[str]:
    return {name for part in parts if part in _PARTS for name in _PARTS[part]}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

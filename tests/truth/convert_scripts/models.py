"""Small transformers models on the meta device: their classes, their tensors' names and shapes."""

from __future__ import annotations

import contextlib
import functools
import warnings
from typing import Any

import torch
import transformers
from transformers.core_model_loading import revert_weight_conversion

from kinfold.checkpoint import TensorInfo

SIZES: dict[str, Any] = {
    "hidden_size": 48, "d_model": 48, "n_embd": 48, "dim": 48, "embed_dim": 48, "emb_dim": 48,
    "intermediate_size": 80, "encoder_ffn_dim": 80, "decoder_ffn_dim": 88, "ffn_dim": 80, "d_ff": 80, "n_inner": 80,
    "dim_feedforward": 80, "encoder_intermediate_size": 80, "mlp_dim": 80, "hidden_dim": 80,
    "num_attention_heads": 4, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_heads": 4, "n_head": 4,
    "n_heads": 4, "attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12,
    "num_hidden_layers": 2, "encoder_layers": 2, "decoder_layers": 2, "num_layers": 2, "n_layer": 2, "n_layers": 2,
    "num_decoder_layers": 2, "text_layers": 2,
    "vocab_size": 112, "max_position_embeddings": 72, "n_positions": 72,
}  # fmt: skip
"""What a small model's config says, where it has that attribute."""

_LAYERS = frozenset(key for key in SIZES if key.endswith(("layers", "n_layer")))


def is_model(name: str) -> bool:
    if name not in _model_names():
        return False
    cls = getattr(transformers, name, None)
    return isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)


def is_config(name: str) -> bool:
    return name.endswith("Config") and name in _exported() and name not in ("PretrainedConfig", "GenerationConfig")


@functools.cache
def _exported() -> frozenset[str]:
    return frozenset(dir(transformers))


@functools.cache
def _model_names() -> frozenset[str]:
    """Names that may be models, so that looking at them does not import everything."""
    kinds = ("For", "Model", "Vocoder", "HifiGan", "Codebook", "Decoder")
    return frozenset(n for n in _exported() if n[:1].isupper() and any(k in n for k in kinds) and "Tok" not in n)


def config_of(name: str) -> str:
    cls = getattr(transformers, name, None)
    config = getattr(cls, "config_class", None)
    return config.__name__ if config is not None else ""


@functools.cache
def tiny_config(name: str, how: str = "sizes") -> Any:
    """The config class's default with `SIZES` ("sizes"), with its layer counts only ("layers"), or None."""
    cls = getattr(transformers, name, None)
    if cls is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = cls()
    except Exception:
        return None
    _shrink(config, how)
    return config


def _shrink(config: Any, how: str) -> None:
    backbone = getattr(config, "backbone_config", None)
    if type(backbone).__name__ == "TimmBackboneConfig":
        config.backbone_config = transformers.ResNetConfig()
        config.backbone_config.out_features = ["stage2", "stage3", "stage4"]
    for value in list(vars(config).values()):
        if hasattr(value, "model_type"):
            _shrink(value, how)
    for key, size in SIZES.items():
        if how == "layers" and key not in _LAYERS:
            continue
        if isinstance(getattr(config, key, None), int):
            with contextlib.suppress(Exception):
                setattr(config, key, size)
    kinds = getattr(config, "layer_types", None)
    if isinstance(kinds, list) and hasattr(config, "num_hidden_layers"):
        with contextlib.suppress(Exception):
            config.layer_types = kinds[: config.num_hidden_layers]


@functools.cache
def tensors(name: str) -> tuple[dict[str, TensorInfo], ...]:
    """The model class's tensors as they are saved, and as they are in memory; none if it cannot be built."""
    cls = getattr(transformers, name)
    for how in ("sizes", "layers"):
        config = tiny_config(config_of(name), how)
        if config is None:
            return ()
        try:
            with warnings.catch_warnings(), torch.device("meta"):
                warnings.simplefilter("ignore")
                model = cls(config)
        except Exception:
            continue
        state = model.state_dict()
        found = []
        for save in (True, False):
            try:
                named = revert_weight_conversion(model, dict(state)) if save else state
            except Exception:
                continue
            found.append({_normed(key): _info(value) for key, value in named.items() if value.dim()})
        return tuple(found)
    return ()


def _normed(key: str) -> str:
    """The name on disk: before weight norms became parametrizations, and without one renaming too many.

    Saving renames `layers` to `encoder.layer` inside of `decoder_layers` as well.
    """
    key = key.replace("decoder_encoder.layer.", "decoder_layers.")
    key = key.replace(".parametrizations.weight.original0", ".weight_g")
    return key.replace(".parametrizations.weight.original1", ".weight_v")


def _info(value: torch.Tensor) -> TensorInfo:
    dtype = str(value.dtype).removeprefix("torch.")
    return TensorInfo(tuple(value.shape), dtype, dtype)


@functools.cache
def prefixes(name: str) -> tuple[str, ...]:
    """What a script may leave off the names of the class: nothing, or the name of its base model."""
    base = getattr(getattr(transformers, name), "base_model_prefix", "")
    return tuple(dict.fromkeys(("", "model.", f"{base}." if base else "")))


@functools.cache
def is_composite(name: str) -> bool:
    """Whether the class joins models with configs of their own."""
    config = tiny_config(config_of(name))
    return sum(hasattr(value, "model_type") for value in vars(config).values()) > 0

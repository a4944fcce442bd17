"""What a family's config may say otherwise: sizes, options, positions.

A variation is tried on each family that it fits: whose name matches, and whose config knows what it needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zoo.sizes import HEADS, INNER, KV_HEADS, LAYERS, WIDTH, each


@dataclass(frozen=True, slots=True)
class Variation:
    """Values that a config is given on top of those of `sizes.py`.

    Attributes:
        name: In the name of the folder, behind that of the family.
        values: By key; keys that a config does not know are left out, and values that are dicts are merged.
        needs: Keys that the config has to know, with dots into dicts; by default, any of `values`.
        families: Patterns of the families' names.
    """

    name: str
    values: dict[str, Any]
    needs: tuple[str, ...] = ()
    families: tuple[str, ...] = ("*",)


def _rope(kind: str, **values: Any) -> Variation:
    parameters = {"rope_type": kind, "type": kind, **values}  # of some both are in the config
    return Variation(f"rope-{kind}", {"rope_parameters": parameters}, needs=("rope_parameters.rope_type",))


def _layers(name: str, *kinds: str) -> Variation:
    window = {"use_sliding_window": True, "sliding_window": 7}
    return Variation(name, {"layer_types": list(kinds), **window}, needs=("layer_types",))


_BIASES = (
    "attention_bias", "attention_out_bias", "mlp_bias", "use_bias", "use_qkv_bias", "qkv_bias", "add_qkv_bias",
    "add_bias_linear", "bias", "norm_bias", "enable_bias", "decoder_bias",
)  # fmt: skip
_QK_NORMS = ("qk_layernorm", "use_qk_norm", "qk_norm")
_ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function")
_EPSILONS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps")

VARIATIONS = (
    Variation("wide-heads", {"head_dim": 24}),
    Variation("one-kv-head", each(KV_HEADS, 1)),
    Variation("wider", {**each(WIDTH, 96), **each(HEADS, 6), **each(KV_HEADS, 3), **each(INNER, 130)}),
    Variation("one-layer", each(LAYERS, 1)),
    Variation("five-layers", each(LAYERS, 5)),
    Variation("odd-vocab", {"vocab_size": 251}),
    Variation("tied", {"tie_word_embeddings": True}),
    Variation("untied", {"tie_word_embeddings": False}),
    Variation("biases", each(_BIASES, True)),
    Variation("no-biases", each(_BIASES, False)),
    Variation("qk-norm", each(_QK_NORMS, True)),
    Variation("no-qk-norm", each(_QK_NORMS, False)),
    Variation("relu", each(_ACTIVATIONS, "relu")),
    Variation("gelu", each(_ACTIVATIONS, "gelu")),
    Variation("large-eps", each(_EPSILONS, 1e-2)),
    # positions
    Variation("rope-theta", {"rope_parameters": {"rope_theta": 500.0}}, needs=("rope_parameters.rope_theta",)),
    _rope("linear", factor=4.0),
    _rope("dynamic", factor=2.0, original_max_position_embeddings=16),
    _rope("yarn", factor=4.0, original_max_position_embeddings=32),
    _rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16),
    Variation(
        "rope-longrope",
        {
            "original_max_position_embeddings": 16,
            "rope_parameters": {
                "rope_type": "longrope",
                "type": "longrope",
                "short_factor": [1.0 + 0.1 * i for i in range(8)],
                "long_factor": [1.0 + 0.5 * i for i in range(8)],
                "original_max_position_embeddings": 16,
                "factor": 8.0,
            },
        },
        needs=("rope_parameters.rope_type",),
    ),
    Variation(
        "rope-of-full-layers",
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 1e5, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e3},
            }
        },
        needs=("rope_parameters.full_attention.rope_type",),
    ),
    Variation(
        "partial-rotary",
        {"rope_parameters": {"partial_rotary_factor": 0.75}},
        needs=("rope_parameters.partial_rotary_factor",),
    ),
    Variation("rotary-dim", {"rotary_dim": 12}),
    Variation("no-rope-layers", {"no_rope_layers": [1, 0, 1]}),
    # who sees whom
    _layers("full-last", "sliding_attention", "sliding_attention", "full_attention"),
    _layers("full-first", "full_attention", "sliding_attention", "sliding_attention"),
    _layers("all-full", *["full_attention"] * 3),
    _layers("all-sliding", *["sliding_attention"] * 3),
    Variation("small-window", {"sliding_window": 5}, needs=("sliding_window",)),
    Variation("no-window", {"sliding_window": None}, families=("mistral",)),
    Variation("window", {"sliding_window": 7}, families=("phi3", "starcoder2", "ministral3")),
    Variation("window-above", {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}),
    Variation("global-layers", {"attention_types": [[["global"], 2]]}),
    # caps, factors
    Variation("softcaps", {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0}),
    Variation("no-softcaps", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    Variation("attention-scale", {"query_pre_attn_scalar": 24}),
    Variation("logit-scale", {"logit_scale": 0.3}),
    Variation("clip-qkv", {"clip_qkv": 0.2, "attn_config": {"clip_qkv": 0.2}}),
    Variation("softmax-scale", {"attn_config": {"softmax_scale": 0.1}}, families=("mpt",)),
    Variation(
        "multipliers",
        {"embedding_multiplier": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.5, "logits_scaling": 4.0},
    ),
    Variation("minicpm-factors", {"scale_emb": 3, "scale_depth": 0.7, "dim_model_base": 32}),
    Variation("unscaled-embedding", {"scale_embedding": False}),
    # how a layer is put together
    Variation("parallel-residual", {"use_parallel_residual": True}),
    Variation("sequential-residual", {"use_parallel_residual": False, "parallel_attn": False}),
    Variation("new-decoder", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    Variation(
        "new-decoder-one-norm", {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1}
    ),
    Variation("many-queries", {"multi_query": False}),
    Variation("residual-of-norm", {"apply_residual_connection_post_layernorm": True}),
    Variation("post-norm", {"do_layer_norm_before": False}),
    Variation("narrow-embedding", {"word_embed_proj_dim": 32}, families=("opt",)),
    Variation("no-norm-weights", {"layer_norm_elementwise_affine": False}),
    Variation("by-layer-scale", {"scale_attn_by_inverse_layer_idx": True}),
    Variation("unscaled-attention", {"scale_attn_weights": False}),
    Variation("no-query-rank", {"q_lora_rank": None}, families=("youtu",)),
)

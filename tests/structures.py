"""Specs of decoders, one for each thing that a spec can say, and some that say several."""

from __future__ import annotations

from typing import Any

import yaml

from kinfold.scaffold.spec.schema import Spec, parse_spec

SIZES = {
    "model_dim": 32, "num_layers": 4, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "ffn_inner_dim": 48,
    "vocab_size": 61, "max_seq_len": 64,
}  # fmt: skip

LATENT = {
    "attention": {"kind": "latent"},
    "num_kv_heads": None,
    "rotary_dim": 4,
    "value_head_dim": 6,
    "kv_latent_dim": 10,
}


def spec_of(said: dict[str, Any]) -> Spec:
    """The spec of a tiny decoder: sections, and sizes of its first arch; `b` is what a second arch says."""
    sections = {name: value for name, value in said.items() if name in Spec.__struct_fields__}
    sizes = {**SIZES, **{name: value for name, value in said.items() if name not in {*sections, "b"}}}
    if said.get("num_kv_heads", 0) is None:
        del sizes["num_kv_heads"]
    archs = {"a": sizes, **({"b": said["b"]} if "b" in said else {})}
    return parse_spec(yaml.safe_dump({**sections, "archs": archs}), place="spec")


STRUCTURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "multi_head": {"num_kv_heads": None},
    "multi_head_norms": {
        "num_kv_heads": None, "attention": {"qk_norm": {"kind": "layer", "over": "each_head"}, "dynamic_mask": True},
    },
    "multi_head_differential": {"num_kv_heads": None, "attention": {"kind": "differential"}},
    "to_encoder": {"attention": {"to_encoder": True, "qkv_bias": ["q", "v"]}},
    "to_encoder_in_post_norm": {
        "attention": {"to_encoder": True}, "norm": {"order": "post", "kind": "layer"}, "dropout_p": 0.1,
        "position": {"kind": "learned"}, "embedding": {"norm": True, "norm_first": True},
    },
    "qkv_bias": {"attention": {"qkv_bias": True, "output_bias": True}},
    "some_biases": {"attention": {"qkv_bias": ["q", "v"]}},
    "last_bias": {"attention": {"output_bias": "last"}},
    "qk_norm": {"attention": {"qk_norm": True}},
    "qk_norm_over_width": {"attention": {"qk_norm": {"over": "width"}}},
    "qk_norm_by_head": {"attention": {"qk_norm": {"kind": "layer", "over": "each_head"}}},
    "qk_norm_with_bias": {"attention": {"qk_norm": {"kind": "layer", "bias": True}}},
    "qk_norm_with_offset": {"attention": {"qk_norm": {"weight": "offset"}}},
    "qk_norm_after_position": {"attention": {"qk_norm": {"weight": "none", "after_position": True}}},
    "sinks": {"attention": {"sinks": True}, "sliding_window": 3, "window_pattern": [True, False]},
    "gate_by_heads": {"attention": {"gate": "headwise"}},
    "gate_by_elements": {"attention": {"gate": "elementwise", "gate_bias": True}},
    "inner_norms": {"attention": {"output_norm": True}, "ffn": {"inner_norm": True, "activation": "relu2"}},
    "latent": LATENT,
    "latent_queries": {**LATENT, "q_latent_dim": 12, "b": {"q_latent_dim": None}, "sliding_window": 3},
    "differential": {"attention": {"kind": "differential", "qkv_bias": True}},
    "scores": {"attention_scale": 0.2, "attention_cap": 5.0, "qkv_clip": 0.1},
    "query_scaling": {"query_scaling": {"kind": "log", "beta": 0.1, "interval": 4}, "b": {"query_scaling": None}},
    "growing_where_unturned": {
        "query_scaling": {"kind": "power", "exponent": 0.5, "interval": 4}, "rope_theta": [10000.0, 0],
        "attention": {"scaled_queries": "unturned"},
    },
    "dynamic_mask": {"attention": {"dynamic_mask": True, "qkv_bias": True}, "dynamic_mask_keep": 4},
    "scaled_by_layer": {"attention": {"scaled_by_layer": True}},
    "scaled_by_layer_and_number": {
        "attention": {"scaled_by_layer": True}, "attention_scale": 0.5, "b": {"attention_scale": None},
    },
    "latent_bias": {**LATENT, "attention": {"kind": "latent", "latent_bias": True}, "q_latent_dim": 12},
    "latent_eps": {**LATENT, "latent_norm_eps": 0.5},
    "some_scores": {"attention_cap": 5.0, "b": {"attention_cap": None}},
    "window": {"sliding_window": 3},
    "windows_in_turns": {"sliding_window": 3, "window_pattern": [True, True, False]},
    "thetas_in_turns": {"rope_theta": [10000.0, 0, 1000000.0]},
    "thetas_of_one_arch": {"rope_theta": 500.0, "b": {"rope_theta": [10000.0, 500.0]}},
    "scaled_where_full": {
        "position": {"scaled_layers": "full"}, "sliding_window": 3, "window_pattern": [True, False],
        "rope_scaling": {"kind": "linear", "factor": 8.0}, "rope_theta": [10000.0, 1000000.0],
    },
    "one_theta_scaled_where_full": {
        "position": {"scaled_layers": "full"}, "sliding_window": 3, "window_pattern": [True, False],
        "rope_scaling": {"kind": "yarn", "factor": 8.0, "original_max_seq_len": 32},
    },
    "partial": {"rotary_dim": 4, "position": {"reversed": True}},
    "alibi": {"position": {"kind": "alibi"}, "norm": {"kind": "layer"}, "embedding": {"norm": True}},
    "scaled_alibi": {"position": {"kind": "alibi", "scaled": True}},
    "steep_alibi": {"position": {"kind": "alibi"}, "alibi_max_bias": 4.0, "num_heads": 6, "num_kv_heads": 3},
    "learned": {"position": {"kind": "learned", "start": 2}},
    "sinusoidal": {"position": {"kind": "sinusoidal", "frequencies": "paper"}, "embedding": {"scaled": True}},
    "no_positions": {"position": {"kind": "none"}},
    "layer_norm": {"norm": {"kind": "layer", "bias": False}},
    "layer_norm_with_offset": {"norm": {"kind": "layer", "weight": "offset"}},
    "norm_without_weights": {"norm": {"kind": "layer", "weight": "none"}},
    "norm_with_offset": {"norm": {"weight": "offset"}, "embedding": {"scaled": True}, "tied_embeddings": True},
    "post": {"norm": {"order": "post"}},
    "post_and_final": {"norm": {"order": "post", "final": True}},
    "output": {"norm": {"order": "output"}, "attention": {"qk_norm": {"over": "width"}}},
    "both": {"norm": {"order": "both", "weight": "offset"}, "attention_cap": 50.0, "logit_cap": 30.0},
    "no_first_norm": {"norm": {"first": False, "kind": "layer", "bias": False}},
    "no_final_norm": {"norm": {"final": False}},
    "parallel": {"residual": {"parallel": True}, "rotary_dim": 2},
    "parallel_shared": {"residual": {"parallel": True}, "norm": {"shared": True, "kind": "layer"}, "logit_scale": 0.25},
    "residual_of_norm": {"residual": {"of_norm": True}},
    "learned_residual": {"residual": {"weights": "learned"}},
    "residual_by_depth": {"residual": {"weights": "depth"}, "residual_scale": 0.5},
    "scales": {"embedding_scale": 12.0, "residual_scale": 0.22, "logit_scale": 0.125},
    "narrow_embedding": {
        "embedding_dim": 16, "b": {"embedding_dim": None}, "embedding": {"scaled": True}, "tied_embeddings": True,
    },
    "narrow_embedding_everywhere": {"embedding_dim": 16, "embedding_scale": 3.0},
    "transform": {"output": {"transform": True, "transform_bias": True, "bias": True}},
    "relu_transform": {"output": {"transform": True, "transform_activation": "relu"}},
    "tied_with_bias": {"output": {"bias": True}, "tied_embeddings": True},
    "some_logit_caps": {"logit_cap": 20.0, "logit_scale": 0.5, "b": {"logit_cap": None}},
    "plain_ffn": {"ffn": {"kind": "plain", "activation": "quick_gelu", "bias": True}},
    "xielu": {"ffn": {"kind": "plain", "activation": "xielu"}},
    "sigmoid": {"ffn": {"activation": "sigmoid"}},
    "dropout": {"dropout_p": 0.1, "norm": {"order": "both"}},
}  # fmt: skip

"""Structures give the logits of the models that they are known from, as transformers computes them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from structures import SIZES, spec_of
from torch import nn

from kinfold.scaffold.render.memory import load_family

TINY = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "intermediate_size": 48, "vocab_size": 61, "max_position_embeddings": 64, "pad_token_id": None,
    "bos_token_id": None, "eos_token_id": None, "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}  # fmt: skip
EPS = {"norm_eps": 1e-6}
SPECIAL = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0)
TURNS = ["sliding_attention", "full_attention"] * 2
GELU = {"activation": "gelu_tanh"}


def key_map(layers: str, modules: dict[str, str], *others: str) -> dict[str, Any]:
    """A key map of other names than the usual ones: their modules to ours; those of layers begin with a dot."""
    places = {
        theirs: (layers + theirs, "decoder.layers.{layer}." + ours) if theirs[0] == "." else (theirs, ours)
        for theirs, ours in modules.items()
    }
    renamed = [f"rename('{a}.{leaf}', '{b}.{leaf}')" for a, b in places.values() for leaf in ("weight", "bias")]
    return {"hf": {"rules": [*renamed, *others]}}


def fused(theirs: str, leaf: str) -> str:
    """The rule for queries, keys and values of one head after the other."""
    into = tuple(f"decoder.layers.{{layer}}.self_attn.{name}_proj.{leaf}" for name in "qkv")
    return f"split('{theirs}.{leaf}', into={into}, sizes={('num_heads * head_dim',) * 3}, groups='num_heads')"


WITH_BIASES = {"qkv_bias": True, "output_bias": True}

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "biases": (
        "qwen2",
        {},
        {**EPS, "attention": {"qkv_bias": True}, "rope_theta": 10000.0},
    ),
    "norms_before_and_after": (
        "gemma2",
        {"layer_types": TURNS, "sliding_window": 3, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 0.5,
         "final_logit_softcapping": 0.7},
        {**EPS, "norm": {"order": "both", "weight": "offset"}, "embedding": {"scaled": True}, "ffn": GELU,
         "sliding_window": 3, "window_pattern": [True, False], "attention_scale": 0.25, "attention_cap": 0.5,
         "logit_cap": 0.7, "rope_theta": 10000.0},
    ),
    "two_kinds_of_positions": (
        "gemma3_text",
        {"layer_types": TURNS, "sliding_window": 3, "query_pre_attn_scalar": 8, "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 10000.0}}},
        {**EPS, "norm": {"order": "both", "weight": "offset"}, "embedding": {"scaled": True}, "ffn": GELU,
         "attention": {"qk_norm": {"weight": "offset"}}, "position": {"scaled_layers": "full"},
         "sliding_window": 3, "window_pattern": [True, False], "rope_theta": [100.0, 10000.0],
         "rope_scaling": {"kind": "linear", "factor": 8.0}},
    ),
    "norms_of_what_is_given": (
        "olmo2",
        {},
        {"norm": {"order": "output"}, "attention": {"qk_norm": {"over": "width"}}, "rope_theta": 10000.0},
    ),
    "side_by_side": (
        "cohere",
        {"logit_scale": 0.25, "use_qk_norm": True},
        {"norm": {"kind": "layer", "bias": False, "shared": True}, "residual": {"parallel": True}, "logit_scale": 0.25,
         "attention": {"qk_norm": {"kind": "layer", "over": "each_head"}}, "rope_theta": 10000.0,
         "key_maps": {"hf": {"rotary_pairs": "interleaved"}}},
    ),
    "scales": (
        "granite",
        {"embedding_multiplier": 12.0, "residual_multiplier": 0.22, "logits_scaling": 8.0, "attention_multiplier": 0.5},
        {**EPS, "embedding_scale": 12.0, "residual_scale": 0.22, "logit_scale": 0.125, "attention_scale": 0.5,
         "rope_theta": 10000.0},
    ),
    "layer_norms_with_offset": (
        "nemotron",
        {"partial_rotary_factor": 0.5},
        {"norm": {"kind": "layer", "weight": "offset"}, "ffn": {"kind": "plain", "activation": "relu2"},
         "rotary_dim": 4, "rope_theta": 10000.0},
    ),
    "norms_without_weights": (
        "olmo",
        {"clip_qkv": 0.1},
        {"norm": {"kind": "layer", "weight": "none"}, "qkv_clip": 0.1, "rope_theta": 10000.0},
    ),
    "layers_without_positions": (
        "smollm3",
        {"no_rope_layers": [1, 0, 1, 0], "use_sliding_window": False, "layer_types": ["full_attention"] * 4},
        {**EPS, "rope_theta": [10000.0, 0]},
    ),
    "norms_inside": (
        "bitnet",
        {},
        {"attention": {"output_norm": True}, "ffn": {"inner_norm": True, "activation": "relu2"}, "rope_theta": 10000.0},
    ),
    "differences": (
        "diffllama",
        {"attention_bias": False},
        {"attention": {"kind": "differential"}, "rope_theta": 10000.0},
    ),
    "latent_vectors": (
        "deepseek_v3",
        {"first_k_dense_replace": 4, "q_lora_rank": 12, "kv_lora_rank": 10, "qk_rope_head_dim": 4,
         "qk_nope_head_dim": 4, "v_head_dim": 6, "num_key_value_heads": 4, "head_dim": 4},
        {**EPS, "attention": {"kind": "latent"}, "num_kv_heads": None, "rotary_dim": 4, "value_head_dim": 6,
         "q_latent_dim": 12, "kv_latent_dim": 10, "rope_theta": 10000.0,
         "key_maps": {"hf": {"rotary_pairs": "interleaved"}}},
    ),
    "growing_queries": (
        "ministral3",
        {"sliding_window": None, "rope_parameters": {
            "rope_type": "default", "rope_theta": 10000.0, "llama_4_scaling_beta": 0.1,
            "original_max_position_embeddings": 4}},
        {"query_scaling": {"kind": "log", "beta": 0.1, "interval": 4}, "rope_theta": 10000.0},
    ),
    "xielu": (
        "apertus",
        {},
        {"attention": {"qk_norm": True}, "ffn": {"kind": "plain", "activation": "xielu"}, "rope_theta": 10000.0,
         "key_maps": key_map("model.layers.{layer}", {
             "model.embed_tokens": "decoder_frontend.embed", ".attention_layernorm": "self_attn_layer_norm",
             **{f".self_attn.{name}_proj": f"self_attn.{name}_proj" for name in "qkv"},
             **{f".self_attn.{name}_norm": f"self_attn.{name}_norm" for name in "qk"},
             ".self_attn.o_proj": "self_attn.output_proj", ".feedforward_layernorm": "ffn_layer_norm",
             ".mlp.up_proj": "ffn.inner_proj", ".mlp.down_proj": "ffn.output_proj", "model.norm": "decoder.layer_norm",
             "lm_head": "final_proj"},
             *(f"rename('model.layers.{{layer}}.mlp.act_fn.{name}', 'decoder.layers.{{layer}}.ffn.activation.{name}')"
               for name in ("alpha_p", "alpha_n", "beta", "eps")))},
    ),
    "backwards": (
        "nanochat",
        {},
        {**EPS, "norm": {"weight": "none"}, "attention": {"qk_norm": {"weight": "none", "after_position": True}},
         "ffn": {"kind": "plain", "activation": "relu2"}, "position": {"reversed": True}, "embedding": {"norm": True},
         "logit_cap": 15.0, "rope_theta": 10000.0,
         "key_maps": key_map("model.layers.{layer}", {
             "model.embed_tokens": "decoder_frontend.embed",
             **{f".self_attn.{name}_proj": f"self_attn.{name}_proj" for name in "qkv"},
             ".self_attn.o_proj": "self_attn.output_proj", ".mlp.fc1": "ffn.inner_proj", ".mlp.fc2": "ffn.output_proj",
             "lm_head": "final_proj"})},
    ),
    "narrow_embedding": (
        "opt",
        {"word_embed_proj_dim": 16, "do_layer_norm_before": False, "ffn_dim": 48, "pad_token_id": 1},
        {"norm": {"kind": "layer", "order": "post"}, "position": {"kind": "learned", "start": 2},
         "attention": WITH_BIASES, "ffn": {"kind": "plain", "activation": "relu", "bias": True}, "embedding_dim": 16,
         "num_kv_heads": 4,
         "key_maps": key_map("model.decoder.layers.{layer}", {
             "model.decoder.embed_tokens": "decoder_frontend.embed",
             "model.decoder.embed_positions": "decoder_frontend.position",
             "model.decoder.project_in": "decoder_frontend.project", "model.decoder.project_out": "project_out",
             **{f".self_attn.{name}_proj": f"self_attn.{name}_proj" for name in "qkv"},
             ".self_attn.out_proj": "self_attn.output_proj", ".self_attn_layer_norm": "self_attn_layer_norm",
             ".fc1": "ffn.inner_proj", ".fc2": "ffn.output_proj", ".final_layer_norm": "ffn_layer_norm",
             "lm_head": "final_proj"})},
    ),
    "alibi": (
        "bloom",
        {"n_layer": 4, "n_head": 4, "apply_residual_connection_post_layernorm": True},
        {"norm": {"kind": "layer"}, "residual": {"of_norm": True}, "position": {"kind": "alibi"}, "num_kv_heads": 4,
         "embedding": {"norm": True}, "attention": WITH_BIASES, "ffn_inner_dim": 128,
         "ffn": {"kind": "plain", "activation": "gelu_tanh", "bias": True},
         "key_maps": key_map("transformer.h.{layer}", {
             "transformer.word_embeddings": "decoder_frontend.embed",
             "transformer.word_embeddings_layernorm": "decoder_frontend.norm",
             ".input_layernorm": "self_attn_layer_norm", ".self_attention.dense": "self_attn.output_proj",
             ".post_attention_layernorm": "ffn_layer_norm", ".mlp.dense_h_to_4h": "ffn.inner_proj",
             ".mlp.dense_4h_to_h": "ffn.output_proj", "transformer.ln_f": "decoder.layer_norm",
             "lm_head": "final_proj"},
             *(fused("transformer.h.{layer}.self_attention.query_key_value", leaf) for leaf in ("weight", "bias")))},
    ),
    "side_by_side_with_two_norms": (
        "gpt_neox",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}},
        {"norm": {"kind": "layer"}, "residual": {"parallel": True}, "rotary_dim": 4, "num_kv_heads": 4,
         "attention": WITH_BIASES, "ffn": {"kind": "plain", "activation": "gelu", "bias": True},
         "rope_theta": 10000.0,
         "key_maps": key_map("gpt_neox.layers.{layer}", {
             "gpt_neox.embed_in": "decoder_frontend.embed", ".input_layernorm": "self_attn_layer_norm",
             ".attention.dense": "self_attn.output_proj", ".post_attention_layernorm": "ffn_layer_norm",
             ".mlp.dense_h_to_4h": "ffn.inner_proj", ".mlp.dense_4h_to_h": "ffn.output_proj",
             "gpt_neox.final_layer_norm": "decoder.layer_norm", "lm_head": "final_proj"},
             *(fused("gpt_neox.layers.{layer}.attention.query_key_value", leaf) for leaf in ("weight", "bias")))},
    ),
    "a_transform": (
        "modernbert-decoder",
        {**SPECIAL, "layer_types": TURNS, "local_attention": 6, "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            "full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
        {"norm": {"kind": "layer", "bias": False, "first": False}, "embedding": {"norm": True}, "num_kv_heads": 4,
         "ffn": {"activation": "gelu"}, "output": {"transform": True, "bias": True},
         "sliding_window": 3, "window_pattern": [True, False], "rope_theta": [100.0, 10000.0],
         "key_maps": key_map("model.layers.{layer}", {
             "model.embeddings.tok_embeddings": "decoder_frontend.embed",
             "model.embeddings.norm": "decoder_frontend.norm",
             ".attn_norm": "self_attn_layer_norm", ".attn.Wo": "self_attn.output_proj", ".mlp_norm": "ffn_layer_norm",
             **{f".attn.{name}_proj": f"self_attn.{name}_proj" for name in "qkv"}, ".mlp.Wo": "ffn.output_proj",
             "model.final_norm": "decoder.layer_norm", "lm_head.dense": "transform.proj",
             "lm_head.norm": "transform.norm", "decoder": "final_proj"},
             "split('model.layers.{layer}.mlp.Wi.weight', into=('decoder.layers.{layer}.ffn.gate_proj.weight', "
             "'decoder.layers.{layer}.ffn.inner_proj.weight'), sizes=('ffn_inner_dim', 'ffn_inner_dim'))")},
    ),
}  # fmt: skip


def reference(model_type: str, values: dict[str, Any]) -> nn.Module:
    """A tiny model of transformers in float64, with large random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **{**TINY, **values})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, mean=0.5 if parameter.dim() < 2 else 0.0, std=0.3)
    return model


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(case: str) -> None:
    model_type, values, said = CASES[case]
    theirs = reference(model_type, values)
    family = load_family(case, spec_of(said))
    config = family.archs.get()
    ours = family.create(config, dtype=torch.float64).eval()
    ours.load_state_dict(family.converter.load(theirs.state_dict(), config, layout="hf"))
    token_ids = torch.randint(SIZES["vocab_size"], (2, 11))
    with torch.inference_mode():
        torch.testing.assert_close(ours(token_ids), theirs(token_ids).logits, rtol=1e-5, atol=1e-5)

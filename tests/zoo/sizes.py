"""How small the checkpoints of the zoo are: what is set in a config of transformers, whatever the family calls it."""

from __future__ import annotations

from typing import Any

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers")
HEADS = (
    "num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads", "decoder_attention_heads",
    "encoder_attention_heads",
)  # fmt: skip
KV_HEADS = ("num_key_value_heads", "num_kv_heads", "kv_n_heads")
WIDTH = ("hidden_size", "n_embd", "d_model", "dim_model", "word_embed_proj_dim", "emb_dim", "embedding_size")
INNER = (
    "intermediate_size",
    "ffn_dim",
    "n_inner",
    "dff",
    "dim_ff",
    "ffn_hidden_size",
    "decoder_ffn_dim",
    "encoder_ffn_dim",
)
POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")


def each(names: tuple[str, ...], value: Any) -> dict[str, Any]:
    """The same value for all spellings of one size."""
    return dict.fromkeys(names, value)


TINY: dict[str, Any] = {
    **each(LAYERS, 3),
    **each(HEADS, 4),
    **each(KV_HEADS, 2),
    **each(WIDTH, 64),
    **each(INNER, 96),
    **each(POSITIONS, 128),
    **each(("head_dim", "dim_head"), 16),
    **each(("sliding_window", "window_size"), 16),
    **{"vocab_size": 256, "rotary_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    # latent attention
    **each(("kv_lora_rank", "q_lora_rank", "v_head_dim"), 16),
    **each(("qk_rope_head_dim", "qk_nope_head_dim"), 8),
    # mixtures of experts
    **each(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **each(("num_experts_per_tok", "num_experts_per_token", "moe_topk"), 2),
    **each(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 32),
    **each(("n_group", "topk_group", "first_k_dense_replace"), 1),
    # embeddings of each layer
    **{"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 256, "laurel_rank": 8},
}
"""What a config is given of what it knows; keys that a family leaves at None stay so, but for special tokens."""

_LATENT = {"head_dim": 8, "num_key_value_heads": 4}
_PER_LAYER_TYPE = {
    kind: {"rope_type": "default", "rope_theta": 1e4} for kind in ("full_attention", "sliding_attention")
}

FAMILIES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ("axk1", "axk2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa"), _LATENT
    ),
    "bamba": {"attn_layer_indices": [1]},
    "cohere_compass_text": {"rope_parameters": _PER_LAYER_TYPE},
    "deepseek_v2": {**_LATENT, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "falcon": {"num_kv_heads": None},
    "gemma3n_text": {"num_hidden_layers": 6, "num_kv_shared_layers": 1, "intermediate_size": [96] * 6,
                     "activation_sparsity_pattern": [0.95] + [0.0] * 5},
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention", "mamba"]},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {"num_hidden_layers": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"]},
    "lfm3": {"num_hidden_layers": 6},
    "longcat_flash": {**_LATENT, "num_layers": 1},
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "minicpm3": {**_LATENT, "dim_model_base": 16},
    "ministral": {"head_dim": 16},
    "nemotron": {"num_key_value_heads": 2},
    "qwen3_5_moe_text": {"full_attention_interval": 2},
    "qwen3_5_text": {"full_attention_interval": 2},
    "qwen3_next": {"full_attention_interval": 2},
    "xmod": {"default_language": "en_XX"},
    "youtu": _LATENT,
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip
"""What one family needs beside, or instead of, `TINY`; None leaves a key as the family has it."""

"""How configs spell what the spec calls by one name.

These tables are data: a checkpoint whose config uses another spelling is read once the spelling stands here. Keys are
those of Hugging Face's config.json, of the params.json of Meta and Mistral, and of GGUF metadata after the
architecture's prefix; of a mapping within a config, the keys of both with a dot between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "model_dim": ("hidden_size", "n_embd", "n_embed", "d_model", "dim", "emb_dim", "embedding_length"),
    "embedding_dim": ("word_embed_proj_dim", "embedding_size"),
    "num_layers": (
        "num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers", "decoder_layers",
        "block_count",
    ),
    "num_heads": (
        "num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads", "decoder_attention_heads",
        "attention.head_count",
    ),
    "num_kv_heads": (
        "num_key_value_heads", "n_kv_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num",
        "attn_config.kv_n_heads", "attention.head_count_kv",
    ),
    "head_dim": (
        "head_dim", "dim_head", "kv_channels", "d_head", "attention.key_length", "attention.value_length",
    ),
    "rotary_dim": ("rotary_dim", "rotary_ndims", "rope.dimension_count"),
    "q_latent_dim": ("q_lora_rank",),
    "kv_latent_dim": ("kv_lora_rank",),
    "value_head_dim": ("v_head_dim",),
    "ffn_inner_dim": (
        "intermediate_size", "ffn_dim", "n_inner", "hidden_dim", "ffn_hidden_size", "dff", "dim_ff",
        "decoder_ffn_dim", "feed_forward_length",
    ),
    "vocab_size": ("vocab_size", "decoder_vocab_size"),
    "max_seq_len": (
        "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length", "max_sequence_length",
        "max_target_positions",
        "context_length",
    ),
    "norm_eps": (
        "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon", "norm_eps", "norm_epsilon", "eps",
        "attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon",
    ),
    "tied_embeddings": ("tie_word_embeddings",),
    "ffn.activation": (
        "hidden_act", "hidden_activation", "activation_function", "activation", "afn", "mlp_hidden_act",
    ),
    "output.transform_activation": ("classifier_activation",),
    "attention.qkv_bias": ("attention_bias", "use_qkv_bias", "qkv_bias", "add_qkv_bias"),
    "attention.output_bias": ("attention_out_bias", "attention_output_bias"),
    "attention.scaled_by_layer": ("scale_attn_by_inverse_layer_idx",),
    "ffn.bias": ("mlp_bias",),
    "attention_cap": ("attn_logit_softcapping", "attn_logit_softcap"),
    "attention_scale": ("attention_multiplier", "attn_config.softmax_scale"),
    "dynamic_mask_keep": ("keep_window_size",),
    "qkv_clip": ("clip_qkv", "attn_config.clip_qkv"),
    "alibi_max_bias": ("alibi_bias_max", "attn_config.alibi_bias_max"),
    "embedding_scale": ("embedding_multiplier", "scale_emb", "embedding_scale"),
    "residual_scale": ("residual_multiplier",),
    "logit_scale": ("logit_scale",),
    "logit_cap": ("final_logit_softcapping", "final_logit_softcap"),
    "embedding.scaled": ("scale_embedding",),
    "residual.parallel": ("use_parallel_residual", "parallel_attn"),
    "residual.of_norm": ("apply_residual_connection_post_layernorm",),
    "dropout_p": (
        "resid_pdrop", "resid_dropout", "hidden_dropout", "residual_dropout", "dropout", "hidden_dropout_prob",
    ),
}  # fmt: skip
"""Name in the spec to the keys that say it."""

EITHER_WAY: Mapping[str, tuple[str, ...]] = {"logit_scale": ("logits_scaling",)}
"""Keys that some divide by, and others multiply by."""

INVERSE_ROOT: Mapping[str, tuple[str, ...]] = {"attention_scale": ("query_pre_attn_scalar",)}
"""Keys that say one over the square of the value."""

SCALED: Mapping[str, tuple[str, str, float]] = {
    "residual_scale": ("scale_depth", "num_layers", -0.5),
    "logit_scale": ("dim_model_base", "model_dim", -1.0),
}
"""Keys whose value is multiplied by a power of another fact (MiniCPM): key, fact, power."""

UNSCALED: tuple[str, ...] = ("scale_attn_weights",)
"""Keys that switch the scale of scores off where they are false."""

LAYER_KINDS: tuple[str, ...] = ("layer_types", "attention_layers")
"""Keys that name the kind of each layer."""

WINDOWED: frozenset[str] = frozenset({"sliding_attention", "local", "local_attention"})
"""The kinds of layers that have a window."""

UNWINDOWED: frozenset[str] = frozenset({"full_attention", "global", "global_attention", "attention"})
"""The kinds of layers that have none."""

WINDOWS: tuple[str, ...] = ("sliding_window", "window_size", "attention.sliding_window")
"""Keys that say how far a window reaches."""

ALIBI: tuple[str, ...] = ("alibi", "attn_config.alibi", "use_alibi")
"""Keys that switch scores on that fall with the distance."""

INTERLEAVED: tuple[str, ...] = ("rope_interleave", "rope_interleaved")
"""Keys that say whether neighbouring dimensions of a head turn together."""

PRE_NORM: tuple[str, ...] = ("do_layer_norm_before", "normalize_before")
"""Keys that say whether norms stand before the sublayers."""

RMS_NORM: frozenset[str] = frozenset({"rms_norm_eps", "attention.layer_norm_rms_epsilon"})
"""Keys that say that norms are by the root mean square."""

LAYER_NORM: frozenset[str] = frozenset({
    "layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon", "attention.layer_norm_epsilon",
})  # fmt: skip
"""Keys that say that norms are layer norms."""

ACTIVATIONS: Mapping[str, str] = {
    "silu": "silu",
    "swish": "silu",
    "swiglu": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu2": "relu2",
    "xielu": "xielu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
}
"""How configs call the activations."""

MOOT: Mapping[str, tuple[tuple[str, Any], ...]] = {
    "num_kv_heads": (("new_decoder_architecture", False),),
    "num_key_value_heads": (("multi_query", True), ("multi_query", False)),
}
"""Keys that say nothing where another key has this value."""

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "attn_config.prefix_lm": (False,),
    "prefix_lm": (False,),
    "attn_config.attn_uses_sequence_id": (False,),
    "logit_scale": (None,),
    "embedding_fraction": (1, 1.0),
    "quantization_config": (None,),
    "rope_ratio": (1, 1.0),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "use_bidirectional_attention": (False,),
    "is_moe": (False,),
    "use_scaled_rope": (False,),
    "num_ln_in_parallel_attn": (None, 2, 1),
    "asm": (False,),
    "use_prompt": (False,),
    "rotary": (True,),
    "mlp_type": ("default",),
    "use_cache": (True, False),
}
"""Keys that change the computation unless they have one of these values, or none."""

NOT_ARCHITECTURE: frozenset[str] = frozenset({
    "architectures", "auto_map", "model_type", "dtype", "torch_dtype", "transformers_version", "_name_or_path",
    "use_cache", "initializer_range", "initializer_cutoff_factor", "init_std", "init_device", "lambda_std_dev",
    "embedding_initializer_range", "initializer_std",
    "tokenizer_class",
    "output_attentions", "output_hidden_states", "return_dict", "chunk_size_feed_forward", "id2label", "label2id",
    "problem_type", "finetuning_task", "task_specific_params", "attn_implementation", "_attn_implementation",
    "attn_impl", "attn_type", "transformers.js_config", "is_llama_config", "vocab_type", "name_or_path", "is_decoder",
    "gradient_checkpointing", "pretraining_tp", "slow_but_exact", "reorder_and_upcast_attn",
    "attention_softmax_in_fp32", "scale_attention_softmax_in_fp32", "use_mrope", "rope_theta_is_scaled",
    "summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj",
    "classifier_dropout", "classifier_bias", "problem_types", "norm_type",
    "learned_pos_emb", "prefix", "verbose", "tokenizer_name", "use_flash_attn", "flash_attn", "fused_dense",
    "bias_dropout_fusion", "masked_softmax_fusion", "offset_alibi", "skip_bias_add", "skip_bias_add_qkv",
    "inference_runner", "max_batch_size", "pad_key_length", "pre_allocate_kv_cache", "validate_runner_input",
    "share_encoder_decoder_embeddings", "max_source_positions", "num_mel_bins",
    "median_filter_width", "use_weighted_layer_sum", "classifier_proj_size", "apply_spec_augment",
    "begin_suppress_tokens", "suppress_tokens", "mask_time_prob", "mask_time_length", "mask_time_min_masks",
    "mask_feature_prob", "mask_feature_length", "mask_feature_min_masks",
})  # fmt: skip
"""Keys that say nothing about the computation of the logits; of keys with a dot the last part counts."""

OF_TRAINING: frozenset[str] = frozenset({
    "attention_dropout", "attention_probs_dropout_prob", "attn_pdrop", "embd_pdrop", "emb_pdrop", "activation_dropout",
    "embedding_dropout", "embed_dropout", "mlp_dropout", "layerdrop", "decoder_layerdrop", "router_aux_loss_coef",
})  # fmt: skip
"""Keys that change training alone."""

SAID_BY_SHAPES: frozenset[str] = frozenset({
    "multiple_of", "ffn_dim_multiplier", "use_bias", "bias", "no_bias", "enable_bias", "norm_bias",
    "decoder_bias", "qk_layernorm", "use_qk_norm", "qk_ln", "multi_query", "new_decoder_architecture",
    "expansion_ratio", "intermediate_multiple_size", "qk_nope_head_dim", "qk_rope_head_dim", "qk_head_dim",
    "layernorm_embedding", "use_learned_position_embeddings", "prompt_length", "prompt_mid_dim",
    "use_post_norm", "_remove_final_layer_norm",
    "layer_norm_elementwise_affine", "num_experts", "num_experts_per_tok", "norm_topk_prob",
    "moe_intermediate_size", "moe_layers", "mlp_layer_types", "gating", "n_group", "topk_group",
})  # fmt: skip
"""Keys that say what is, or is not, among the tensors, whose shapes say it as it is."""

OF_LAYERS: frozenset[str] = frozenset({
    *LAYER_KINDS, *WINDOWS, "use_sliding_window", "max_window_layers", "sliding_window_pattern",
    "_sliding_window_pattern", "no_rope_layers", "no_rope_layer_interval", "layer_rope_theta",
})  # fmt: skip
"""Keys that say how layers differ; see `kinds.py`."""

RESTATED: Mapping[str, str] = {"attention_types": "attention_layers", "local_attention": "sliding_window"}
"""Keys that are not read, since another key says the same where a config has both."""

NOT_ARCHITECTURE_SUFFIXES: tuple[str, ...] = ("_token_id", "_token_ids")
"""Endings of keys that name tokens."""

NOT_ARCHITECTURE_PREFIXES: tuple[str, ...] = (
    "general.", "GGUF.", "split.", "quantize.", "tokenizer.", "encoder_", "init_config.",
)  # fmt: skip
"""Prefixes of such keys: in GGUF metadata, in the configs of decoders that come of an encoder and decoder, in MPT's."""

GGUF_ROTARY_PAIRS: Mapping[str, Literal["halves", "interleaved"]] = {
    "llama": "interleaved",
    "qwen2": "halves",
    "qwen3": "halves",
}
"""Which dimensions of a head rotate together in the files of each `general.architecture`.

A property of the file format: llama.cpp's converter permutes the rows of q and k for the architectures that
its runtime rotates in adjacent pairs, and leaves them as they are for the others (`llama_model_rope_type`).
"""


def known_keys() -> frozenset[str]:
    """All keys that say something, by these tables."""
    spelled = (key for table in (SPELLINGS, EITHER_WAY, INVERSE_ROOT) for keys in table.values() for key in keys)
    scaled = (key for key, _, _ in SCALED.values())
    return frozenset({*spelled, *scaled, *OF_LAYERS, *ALIBI, *INTERLEAVED, *PRE_NORM, *UNSCALED})

"""How configs spell what the spec calls by one name.

These tables are data: a checkpoint whose config uses another spelling is read once the spelling stands here.
Keys are those of Hugging Face's config.json, of the params.json of Meta and Mistral, and of GGUF metadata after the
architecture's prefix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "model_dim": ("hidden_size", "n_embd", "d_model", "dim", "embedding_length"),
    "num_layers": ("num_hidden_layers", "n_layer", "n_layers", "block_count"),
    "num_heads": ("num_attention_heads", "n_head", "n_heads", "attention.head_count"),
    "num_kv_heads": ("num_key_value_heads", "n_kv_heads", "attention.head_count_kv"),
    "head_dim": ("head_dim", "attention.key_length", "attention.value_length", "rope.dimension_count"),
    "ffn_inner_dim": ("intermediate_size", "ffn_dim", "n_inner", "hidden_dim", "feed_forward_length"),
    "vocab_size": ("vocab_size",),
    "max_seq_len": ("max_position_embeddings", "n_positions", "context_length"),
    "norm_eps": ("rms_norm_eps", "norm_eps", "attention.layer_norm_rms_epsilon"),
    "tied_embeddings": ("tie_word_embeddings",),
    "ffn.activation": ("hidden_act", "hidden_activation", "activation_function"),
    "attention.qkv_bias": ("attention_bias",),
    "ffn.bias": ("mlp_bias",),
    "sliding_window": ("sliding_window", "attention.sliding_window"),
}
"""Name in the spec to the keys that say it."""

ACTIVATIONS: Mapping[str, str] = {"silu": "silu", "swish": "silu"}
"""How configs call the activations that a Llama-shaped feed-forward has."""

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "attention_dropout": (0, 0.0, None),
    "dropout": (0, 0.0, None),
    "hidden_dropout": (0, 0.0, None),
    "resid_pdrop": (0, 0.0, None),
    "pretraining_tp": (1, None),
    "no_rope_layers": (None, []),
    "quantization_config": (None,),
    "partial_rotary_factor": (1, 1.0, None),
    "rope_interleaved": (False, None),
    "use_mrope": (False, None),
    "use_scaled_rope": (False, None),
    "is_encoder_decoder": (False, None),
    "add_cross_attention": (False, None),
}
"""Keys that change the computation unless they have one of these values."""

NOT_ARCHITECTURE: frozenset[str] = frozenset({
    "architectures", "auto_map", "model_type", "dtype", "torch_dtype", "transformers_version", "_name_or_path",
    "use_cache", "initializer_range", "bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id",
    "output_attentions", "output_hidden_states", "return_dict", "chunk_size_feed_forward", "id2label", "label2id",
    "problem_type", "finetuning_task", "task_specific_params", "attn_implementation", "_attn_implementation",
    "transformers.js_config", "is_llama_config", "vocab_type", "name_or_path",
})  # fmt: skip
"""Keys that say nothing about the computation of the logits."""

SAID_BY_SHAPES: frozenset[str] = frozenset({"multiple_of", "ffn_dim_multiplier"})
"""Keys from which the width of the feed-forward network follows, which shapes say as it is."""

NOT_ARCHITECTURE_PREFIXES: tuple[str, ...] = ("general.", "GGUF.", "split.", "quantize.", "tokenizer.")
"""Prefixes of such keys in GGUF metadata."""

GGUF_ROTARY_PAIRS: Mapping[str, Literal["halves", "interleaved"]] = {
    "llama": "interleaved",
    "qwen2": "halves",
    "qwen3": "halves",
}
"""Which dimensions of a head rotate together in the files of each `general.architecture`.

A property of the file format: llama.cpp's converter permutes the rows of q and k for the architectures that
its runtime rotates in adjacent pairs, and leaves them as they are for the others (`llama_model_rope_type`).
"""

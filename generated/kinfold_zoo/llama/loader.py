"""Loading Llama checkpoints: the key maps, the converter and the loader."""

from __future__ import annotations

from kinfold import CheckpointConverter, StandardModelConfigLoader, StandardModelLoader, load_model, model_factories
from kinfold.keymap import KeyMap, rename

from kinfold_zoo.llama.archs import llama_archs
from kinfold_zoo.llama.factory import LlamaConfig, create_llama_model

hf_key_map = KeyMap(
    rename("model.embed_tokens.weight", "decoder_frontend.embed.weight"),
    rename("model.layers.{layer}.self_attn.q_proj.weight", "decoder.layers.{layer}.self_attn.q_proj.weight"),
    rename("model.layers.{layer}.self_attn.k_proj.weight", "decoder.layers.{layer}.self_attn.k_proj.weight"),
    rename("model.layers.{layer}.self_attn.v_proj.weight", "decoder.layers.{layer}.self_attn.v_proj.weight"),
    rename("model.layers.{layer}.self_attn.o_proj.weight", "decoder.layers.{layer}.self_attn.output_proj.weight"),
    rename("model.layers.{layer}.input_layernorm.weight", "decoder.layers.{layer}.self_attn_layer_norm.weight"),
    rename("model.layers.{layer}.mlp.gate_proj.weight", "decoder.layers.{layer}.ffn.gate_proj.weight"),
    rename("model.layers.{layer}.mlp.up_proj.weight", "decoder.layers.{layer}.ffn.inner_proj.weight"),
    rename("model.layers.{layer}.mlp.down_proj.weight", "decoder.layers.{layer}.ffn.output_proj.weight"),
    rename("model.layers.{layer}.post_attention_layernorm.weight", "decoder.layers.{layer}.ffn_layer_norm.weight"),
    rename("model.norm.weight", "decoder.layer_norm.weight"),
    rename("lm_head.weight", "final_proj.weight"),
)
"""Hugging Face's names to ours."""

convert_llama_checkpoint = CheckpointConverter(
    hf=hf_key_map,
)

load_llama_model = StandardModelLoader(
    config_loader=StandardModelConfigLoader("llama", LlamaConfig, llama_archs),
    factory=create_llama_model,
    checkpoint_converter=convert_llama_checkpoint,
)

model_factories.register("llama", create_llama_model, LlamaConfig, llama_archs)
load_model.register("llama", load_llama_model)

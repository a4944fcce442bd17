"""Loading Transformer checkpoints: the key maps, the converter and the loader."""

from __future__ import annotations

from kinfold import CheckpointConverter, StandardModelConfigLoader, StandardModelLoader, load_model, model_factories
from kinfold.keymap import KeyMap, rename

from kinfold_zoo.transformer.archs import transformer_archs
from kinfold_zoo.transformer.factory import TransformerConfig, create_transformer_model

hf_key_map = KeyMap(
    rename("model.encoder.layers.{layer}.self_attn.q_proj.weight", "encoder.layers.{layer}.self_attn.q_proj.weight"),
    rename("model.encoder.layers.{layer}.self_attn.q_proj.bias", "encoder.layers.{layer}.self_attn.q_proj.bias"),
    rename("model.encoder.layers.{layer}.self_attn.k_proj.weight", "encoder.layers.{layer}.self_attn.k_proj.weight"),
    rename("model.encoder.layers.{layer}.self_attn.k_proj.bias", "encoder.layers.{layer}.self_attn.k_proj.bias"),
    rename("model.encoder.layers.{layer}.self_attn.v_proj.weight", "encoder.layers.{layer}.self_attn.v_proj.weight"),
    rename("model.encoder.layers.{layer}.self_attn.v_proj.bias", "encoder.layers.{layer}.self_attn.v_proj.bias"),
    rename(
        "model.encoder.layers.{layer}.self_attn.out_proj.weight", "encoder.layers.{layer}.self_attn.output_proj.weight"
    ),
    rename("model.encoder.layers.{layer}.self_attn.out_proj.bias", "encoder.layers.{layer}.self_attn.output_proj.bias"),
    rename(
        "model.encoder.layers.{layer}.self_attn_layer_norm.weight", "encoder.layers.{layer}.self_attn_layer_norm.weight"
    ),
    rename(
        "model.encoder.layers.{layer}.self_attn_layer_norm.bias", "encoder.layers.{layer}.self_attn_layer_norm.bias"
    ),
    rename("model.encoder.layers.{layer}.fc1.weight", "encoder.layers.{layer}.ffn.inner_proj.weight"),
    rename("model.encoder.layers.{layer}.fc1.bias", "encoder.layers.{layer}.ffn.inner_proj.bias"),
    rename("model.encoder.layers.{layer}.fc2.weight", "encoder.layers.{layer}.ffn.output_proj.weight"),
    rename("model.encoder.layers.{layer}.fc2.bias", "encoder.layers.{layer}.ffn.output_proj.bias"),
    rename("model.encoder.layers.{layer}.final_layer_norm.weight", "encoder.layers.{layer}.ffn_layer_norm.weight"),
    rename("model.encoder.layers.{layer}.final_layer_norm.bias", "encoder.layers.{layer}.ffn_layer_norm.bias"),
    rename("model.shared.weight", "decoder_frontend.embed.weight"),
    rename("model.decoder.layers.{layer}.self_attn.q_proj.weight", "decoder.layers.{layer}.self_attn.q_proj.weight"),
    rename("model.decoder.layers.{layer}.self_attn.q_proj.bias", "decoder.layers.{layer}.self_attn.q_proj.bias"),
    rename("model.decoder.layers.{layer}.self_attn.k_proj.weight", "decoder.layers.{layer}.self_attn.k_proj.weight"),
    rename("model.decoder.layers.{layer}.self_attn.k_proj.bias", "decoder.layers.{layer}.self_attn.k_proj.bias"),
    rename("model.decoder.layers.{layer}.self_attn.v_proj.weight", "decoder.layers.{layer}.self_attn.v_proj.weight"),
    rename("model.decoder.layers.{layer}.self_attn.v_proj.bias", "decoder.layers.{layer}.self_attn.v_proj.bias"),
    rename(
        "model.decoder.layers.{layer}.self_attn.out_proj.weight", "decoder.layers.{layer}.self_attn.output_proj.weight"
    ),
    rename("model.decoder.layers.{layer}.self_attn.out_proj.bias", "decoder.layers.{layer}.self_attn.output_proj.bias"),
    rename(
        "model.decoder.layers.{layer}.self_attn_layer_norm.weight", "decoder.layers.{layer}.self_attn_layer_norm.weight"
    ),
    rename(
        "model.decoder.layers.{layer}.self_attn_layer_norm.bias", "decoder.layers.{layer}.self_attn_layer_norm.bias"
    ),
    rename(
        "model.decoder.layers.{layer}.encoder_attn.q_proj.weight",
        "decoder.layers.{layer}.encoder_decoder_attn.q_proj.weight",
    ),
    rename(
        "model.decoder.layers.{layer}.encoder_attn.q_proj.bias",
        "decoder.layers.{layer}.encoder_decoder_attn.q_proj.bias",
    ),
    rename(
        "model.decoder.layers.{layer}.encoder_attn.k_proj.weight",
        "decoder.layers.{layer}.encoder_decoder_attn.k_proj.weight",
    ),
    rename(
        "model.decoder.layers.{layer}.encoder_attn.k_proj.bias",
        "decoder.layers.{layer}.encoder_decoder_attn.k_proj.bias",
    ),
    rename(
        "model.decoder.layers.{layer}.encoder_attn.v_proj.weight",
        "decoder.layers.{layer}.encoder_decoder_attn.v_proj.weight",
    ),
    rename(
        "model.decoder.layers.{layer}.encoder_attn.v_proj.bias",
        "decoder.layers.{layer}.encoder_decoder_attn.v_proj.bias",
    ),
    rename(
        "model.decoder.layers.{layer}.encoder_attn.out_proj.weight",
        "decoder.layers.{layer}.encoder_decoder_attn.output_proj.weight",
    ),
    rename(
        "model.decoder.layers.{layer}.encoder_attn.out_proj.bias",
        "decoder.layers.{layer}.encoder_decoder_attn.output_proj.bias",
    ),
    rename(
        "model.decoder.layers.{layer}.encoder_attn_layer_norm.weight",
        "decoder.layers.{layer}.encoder_decoder_attn_layer_norm.weight",
    ),
    rename(
        "model.decoder.layers.{layer}.encoder_attn_layer_norm.bias",
        "decoder.layers.{layer}.encoder_decoder_attn_layer_norm.bias",
    ),
    rename("model.decoder.layers.{layer}.fc1.weight", "decoder.layers.{layer}.ffn.inner_proj.weight"),
    rename("model.decoder.layers.{layer}.fc1.bias", "decoder.layers.{layer}.ffn.inner_proj.bias"),
    rename("model.decoder.layers.{layer}.fc2.weight", "decoder.layers.{layer}.ffn.output_proj.weight"),
    rename("model.decoder.layers.{layer}.fc2.bias", "decoder.layers.{layer}.ffn.output_proj.bias"),
    rename("model.decoder.layers.{layer}.final_layer_norm.weight", "decoder.layers.{layer}.ffn_layer_norm.weight"),
    rename("model.decoder.layers.{layer}.final_layer_norm.bias", "decoder.layers.{layer}.ffn_layer_norm.bias"),
)
"""Hugging Face's names to ours."""

convert_transformer_checkpoint = CheckpointConverter(
    hf=hf_key_map,
)

load_transformer_model = StandardModelLoader(
    config_loader=StandardModelConfigLoader("transformer", TransformerConfig, transformer_archs),
    factory=create_transformer_model,
    checkpoint_converter=convert_transformer_checkpoint,
)

model_factories.register("transformer", create_transformer_model, TransformerConfig, transformer_archs)
load_model.register("transformer", load_transformer_model)

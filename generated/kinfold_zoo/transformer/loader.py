"""Loading Transformer checkpoints: key maps, converter, shard plan and loader."""

from __future__ import annotations

from collections.abc import Mapping

from kinfold import CheckpointConverter, StandardModelConfigLoader, StandardModelLoader, load_model, model_factories
from kinfold.keymap import KeyMap, rename
from kinfold.parallel import Gang, ShardPlan, shard_model
from torch import nn

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

transformer_shard_plan = ShardPlan(
    {
        "encoder_frontend": "scatter",
        "encoder_frontend.embed": "vocabulary",
        "encoder.layers.{layer}.self_attn": "block",
        "encoder.layers.{layer}.self_attn.q_proj": "column",
        "encoder.layers.{layer}.self_attn.k_proj": "column",
        "encoder.layers.{layer}.self_attn.v_proj": "column",
        "encoder.layers.{layer}.self_attn.output_proj": "row",
        "encoder.layers.{layer}.self_attn_layer_norm": "sequence",
        "encoder.layers.{layer}.ffn": "block",
        "encoder.layers.{layer}.ffn.inner_proj": "column",
        "encoder.layers.{layer}.ffn.output_proj": "row",
        "encoder.layers.{layer}.ffn_layer_norm": "sequence",
        "decoder_frontend": "scatter",
        "decoder_frontend.embed": "vocabulary",
        "decoder.layers.{layer}.self_attn": "block",
        "decoder.layers.{layer}.self_attn.q_proj": "column",
        "decoder.layers.{layer}.self_attn.k_proj": "column",
        "decoder.layers.{layer}.self_attn.v_proj": "column",
        "decoder.layers.{layer}.self_attn.output_proj": "row",
        "decoder.layers.{layer}.self_attn_layer_norm": "sequence",
        "decoder.layers.{layer}.encoder_decoder_attn": "block",
        "decoder.layers.{layer}.encoder_decoder_attn.q_proj": "column",
        "decoder.layers.{layer}.encoder_decoder_attn.k_proj": "column",
        "decoder.layers.{layer}.encoder_decoder_attn.v_proj": "column",
        "decoder.layers.{layer}.encoder_decoder_attn.output_proj": "row",
        "decoder.layers.{layer}.encoder_decoder_attn_layer_norm": "sequence",
        "decoder.layers.{layer}.ffn": "block",
        "decoder.layers.{layer}.ffn.inner_proj": "column",
        "decoder.layers.{layer}.ffn.output_proj": "row",
        "decoder.layers.{layer}.ffn_layer_norm": "sequence",
        "final_proj": "vocabulary",
    }
)
"""How its modules are spread over the ranks of a gang."""


def shard_transformer_model(
    model: nn.Module, config: TransformerConfig, gangs: Mapping[str, Gang], *, sequence_parallel: bool = False
) -> None:
    """Spread a model over ranks, in place.

    Args:
        model: The model, on the meta device or with weights.
        config: Its config.
        gangs: Those of this rank, `setup_gangs(tp=...)`.
        sequence_parallel: Spread vectors between blocks along the sequence, too.

    Raises:
        ParallelError: Heads or widths cannot be divided among the ranks; lists all.
    """
    shard_model(model, transformer_shard_plan, gangs, sequence_parallel=sequence_parallel)


load_transformer_model = StandardModelLoader(
    config_loader=StandardModelConfigLoader("transformer", TransformerConfig, transformer_archs),
    factory=create_transformer_model,
    checkpoint_converter=convert_transformer_checkpoint,
    sharder=shard_transformer_model,
)

model_factories.register("transformer", create_transformer_model, TransformerConfig, transformer_archs)
load_model.register("transformer", load_transformer_model)

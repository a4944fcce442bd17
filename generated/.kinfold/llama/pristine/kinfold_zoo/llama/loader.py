"""Loading Llama checkpoints: key maps, converter, shard plan and loader."""

from __future__ import annotations

from collections.abc import Mapping

from kinfold import CheckpointConverter, StandardModelConfigLoader, StandardModelLoader, load_model, model_factories
from kinfold.keymap import KeyMap, drop, permute_rotary, rename, tie
from kinfold.parallel import Gang, ShardPlan, shard_model
from torch import nn

from kinfold_zoo.llama.archs import llama_archs
from kinfold_zoo.llama.factory import LlamaConfig, create_llama_model

reference_key_map = KeyMap(
    rename("tok_embeddings.weight", "decoder_frontend.embed.weight"),
    permute_rotary(
        "layers.{layer}.attention.wq.weight", "decoder.layers.{layer}.self_attn.q_proj.weight", heads="num_heads"
    ),
    permute_rotary(
        "layers.{layer}.attention.wk.weight", "decoder.layers.{layer}.self_attn.k_proj.weight", heads="num_kv_heads"
    ),
    rename("layers.{layer}.attention.wv.weight", "decoder.layers.{layer}.self_attn.v_proj.weight"),
    rename("layers.{layer}.attention.wo.weight", "decoder.layers.{layer}.self_attn.output_proj.weight"),
    rename("layers.{layer}.attention_norm.weight", "decoder.layers.{layer}.self_attn_layer_norm.weight"),
    rename("layers.{layer}.feed_forward.w1.weight", "decoder.layers.{layer}.ffn.gate_proj.weight"),
    rename("layers.{layer}.feed_forward.w3.weight", "decoder.layers.{layer}.ffn.inner_proj.weight"),
    rename("layers.{layer}.feed_forward.w2.weight", "decoder.layers.{layer}.ffn.output_proj.weight"),
    rename("layers.{layer}.ffn_norm.weight", "decoder.layers.{layer}.ffn_layer_norm.weight"),
    rename("norm.weight", "decoder.layer_norm.weight"),
    rename("output.weight", "final_proj.weight", unless="tied_embeddings"),
    tie("output.weight", to="tok_embeddings.weight", when="tied_embeddings"),
    drop("rope.freqs", reason="recomputed from rope_theta"),
)
"""The names of the authors' own code to ours."""

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
    drop("model.layers.{layer}.self_attn.rotary_emb.inv_freq", reason="recomputed from rope_theta"),
)
"""Hugging Face's names to ours."""

gguf_key_map = KeyMap(
    rename("token_embd.weight", "decoder_frontend.embed.weight"),
    permute_rotary("blk.{layer}.attn_q.weight", "decoder.layers.{layer}.self_attn.q_proj.weight", heads="num_heads"),
    permute_rotary("blk.{layer}.attn_k.weight", "decoder.layers.{layer}.self_attn.k_proj.weight", heads="num_kv_heads"),
    rename("blk.{layer}.attn_v.weight", "decoder.layers.{layer}.self_attn.v_proj.weight"),
    rename("blk.{layer}.attn_output.weight", "decoder.layers.{layer}.self_attn.output_proj.weight"),
    rename("blk.{layer}.attn_norm.weight", "decoder.layers.{layer}.self_attn_layer_norm.weight"),
    rename("blk.{layer}.ffn_gate.weight", "decoder.layers.{layer}.ffn.gate_proj.weight"),
    rename("blk.{layer}.ffn_up.weight", "decoder.layers.{layer}.ffn.inner_proj.weight"),
    rename("blk.{layer}.ffn_down.weight", "decoder.layers.{layer}.ffn.output_proj.weight"),
    rename("blk.{layer}.ffn_norm.weight", "decoder.layers.{layer}.ffn_layer_norm.weight"),
    rename("output_norm.weight", "decoder.layer_norm.weight"),
    rename("output.weight", "final_proj.weight"),
    drop("rope_freqs.weight", reason="recomputed from rope_scaling", when="rope_scaling"),
)
"""The names of llama.cpp's GGUF files to ours."""

convert_llama_checkpoint = CheckpointConverter(
    reference=reference_key_map,
    hf=hf_key_map,
    gguf=gguf_key_map,
)

llama_shard_plan = ShardPlan(
    {
        "decoder_frontend": "scatter",
        "decoder_frontend.embed": "vocabulary",
        "decoder.layers.{layer}.self_attn": "block",
        "decoder.layers.{layer}.self_attn.q_proj": "column",
        "decoder.layers.{layer}.self_attn.k_proj": "column",
        "decoder.layers.{layer}.self_attn.v_proj": "column",
        "decoder.layers.{layer}.self_attn.output_proj": "row",
        "decoder.layers.{layer}.self_attn_layer_norm": "sequence",
        "decoder.layers.{layer}.ffn": "block",
        "decoder.layers.{layer}.ffn.gate_proj": "column",
        "decoder.layers.{layer}.ffn.inner_proj": "column",
        "decoder.layers.{layer}.ffn.output_proj": "row",
        "decoder.layers.{layer}.ffn_layer_norm": "sequence",
        "decoder.layer_norm": "sequence",
        "final_proj": "vocabulary",
    }
)
"""How its modules are spread over the ranks of a gang."""


def shard_llama_model(
    model: nn.Module, config: LlamaConfig, gangs: Mapping[str, Gang], *, sequence_parallel: bool = False
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
    shard_model(model, llama_shard_plan, gangs, sequence_parallel=sequence_parallel)


load_llama_model = StandardModelLoader(
    config_loader=StandardModelConfigLoader("llama", LlamaConfig, llama_archs),
    factory=create_llama_model,
    checkpoint_converter=convert_llama_checkpoint,
    sharder=shard_llama_model,
)

model_factories.register("llama", create_llama_model, LlamaConfig, llama_archs)
load_model.register("llama", load_llama_model)

"""Llamas whose checkpoint has every kind of change in it: fused, by groups, stacked, turned, reordered and padded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from kinfold import AssetCard, CheckpointConverter, KeyMap, StandardModelConfigLoader, StandardModelLoader
from kinfold.keymap import chain, permute_rotary, rename, split, transpose, unpad, unstack
from kinfold.parallel import shard_model
from kinfold.parallel.native import native_plan
from kinfold_zoo.llama import LlamaConfig, create_llama_model, llama_archs

LAYER = "decoder.layers.{layer}."


def key_map(config: LlamaConfig) -> KeyMap:
    """The key map of models of these sizes."""
    q, kv, inner = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim, config.ffn_inner_dim
    qkv, gate_and_up = ("q.{layer}", "k.{layer}", "v.{layer}"), ("ffn.gate_proj.weight", "ffn.inner_proj.weight")
    return KeyMap(
        unpad("wte.weight", "decoder_frontend.embed.weight", size=config.vocab_size, padded=config.vocab_size + 6),
        chain(
            split("h.{layer}.qkv", into=qkv, sizes=(q, kv, kv), groups="num_kv_heads"),
            permute_rotary("q.{layer}", LAYER + "self_attn.q_proj.weight", heads="num_heads"),
            permute_rotary("k.{layer}", LAYER + "self_attn.k_proj.weight", heads="num_kv_heads"),
            rename("v.{layer}", LAYER + "self_attn.v_proj.weight"),
        ),
        transpose("h.{layer}.o", LAYER + "self_attn.output_proj.weight"),
        split("h.{layer}.up", into=[LAYER + name for name in gate_and_up], sizes=(inner, inner)),
        unstack("down", LAYER + "ffn.output_proj.weight", over="layer", count="num_layers"),
        rename("h.{layer}.ln1", LAYER + "self_attn_layer_norm.weight"),
        rename("h.{layer}.ln2", LAYER + "ffn_layer_norm.weight"),
        rename("ln", "decoder.layer_norm.weight"),
        rename("head.weight", "final_proj.weight"),
    )


def loader(config: LlamaConfig) -> StandardModelLoader:
    """The loader of models of these sizes."""
    return StandardModelLoader(
        config_loader=StandardModelConfigLoader("llama", LlamaConfig, llama_archs),
        factory=create_llama_model,
        checkpoint_converter=CheckpointConverter(fused=key_map(config)),
        sharder=lambda model, config, gangs: shard_model(model, native_plan(model), gangs),
    )


def config_of(**sizes: Any) -> LlamaConfig:
    """A config, and nothing is rounded up in it."""
    return LlamaConfig(**{"ffn_inner_dim_to_multiple": 1, "max_seq_len": 64, **sizes})


def write_checkpoint(folder: Path, config: LlamaConfig, *, dtype: torch.dtype = torch.float32) -> AssetCard:
    """Write a checkpoint of random weights; gives its card."""
    torch.manual_seed(0)
    model = create_llama_model(config, dtype=dtype)
    state = {name: torch.randn_like(tensor) * 0.2 for name, tensor in model.state_dict().items()}
    foreign = CheckpointConverter(fused=key_map(config)).export(state, config, layout="fused")
    folder.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in foreign.items()}, folder / "model.safetensors")
    return card_of(folder, config)


def card_of(checkpoint: Path, config: LlamaConfig) -> AssetCard:
    """The card of a checkpoint of a Llama of these sizes."""
    return AssetCard("fused", "llama", source=Path("none"), model_config=vars(config), checkpoint=checkpoint)

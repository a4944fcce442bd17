"""How the known layouts of checkpoints name the parameters of a decoder.

One table a layout, native name to foreign name. The spec's reader looks the tensors of a checkpoint up in
them, and the rules of a new family's key maps are rendered from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Layout = Literal["hf", "gguf"]

_HF_LAYER = {
    "self_attn_layer_norm": "input_layernorm",
    "self_attn.q_proj": "self_attn.q_proj",
    "self_attn.k_proj": "self_attn.k_proj",
    "self_attn.v_proj": "self_attn.v_proj",
    "self_attn.q_norm": "self_attn.q_norm",
    "self_attn.k_norm": "self_attn.k_norm",
    "self_attn.output_proj": "self_attn.o_proj",
    "ffn_layer_norm": "post_attention_layernorm",
    "ffn.gate_proj": "mlp.gate_proj",
    "ffn.inner_proj": "mlp.up_proj",
    "ffn.output_proj": "mlp.down_proj",
}

_GGUF_LAYER = {
    "self_attn_layer_norm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.output_proj": "attn_output",
    "ffn_layer_norm": "ffn_norm",
    "ffn.gate_proj": "ffn_gate",
    "ffn.inner_proj": "ffn_up",
    "ffn.output_proj": "ffn_down",
}


def _table(ends: tuple[str, str, str], layer: str, names: Mapping[str, str]) -> dict[str, str]:
    embed, norm, output = ends
    modules = {
        "decoder_frontend.embed": embed,
        **{f"decoder.layers.{{layer}}.{native}": f"{layer}.{foreign}" for native, foreign in names.items()},
        "decoder.layer_norm": norm,
        "final_proj": output,
    }
    return {f"{n}.{leaf}": f"{f}.{leaf}" for n, f in modules.items() for leaf in ("weight", "bias")}


LAYOUTS: Mapping[Layout, Mapping[str, str]] = {
    "hf": _table(("model.embed_tokens", "model.norm", "lm_head"), "model.layers.{layer}", _HF_LAYER),
    "gguf": _table(("token_embd", "output_norm", "output"), "blk.{layer}", _GGUF_LAYER),
}
"""Native pattern to foreign pattern, by layout."""

CONTAINERS: Mapping[str, Layout] = {"safetensors": "hf", "pickle": "hf", "dcp": "hf", "gguf": "gguf"}
"""The layout that each kind of file is expected to have."""

RECOMPUTED: Mapping[Layout, Mapping[str, str]] = {
    "hf": {"model.layers.{layer}.self_attn.rotary_emb.inv_freq": "recomputed from rope_theta"},
    "gguf": {},
}
"""Tensors that old checkpoints hold although they follow from the config: pattern to reason."""

"""How the known layouts of checkpoints name the parameters of a model.

One table a layout and kind of model, native name to foreign name. The spec's reader looks the tensors of a
checkpoint up in them, and the rules of a new family's key maps are rendered from them.
"""

from __future__ import annotations

from collections.abc import Mapping

from kinfold.scaffold.spec.schema import Layout
from kinfold.scaffold.spec.sizes import ModelKind

Names = Mapping[str, str]

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

_REFERENCE_LAYER = {
    "self_attn_layer_norm": "attention_norm",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.q_norm": "attention.q_norm",
    "self_attn.k_norm": "attention.k_norm",
    "self_attn.output_proj": "attention.wo",
    "ffn_layer_norm": "ffn_norm",
    "ffn.gate_proj": "feed_forward.w1",
    "ffn.inner_proj": "feed_forward.w3",
    "ffn.output_proj": "feed_forward.w2",
}

_BART_LAYER = {
    "self_attn.q_proj": "self_attn.q_proj",
    "self_attn.k_proj": "self_attn.k_proj",
    "self_attn.v_proj": "self_attn.v_proj",
    "self_attn.output_proj": "self_attn.out_proj",
    "self_attn_layer_norm": "self_attn_layer_norm",
    "ffn.gate_proj": "fc0",
    "ffn.inner_proj": "fc1",
    "ffn.output_proj": "fc2",
    "ffn_layer_norm": "final_layer_norm",
}

_BART_CROSS = {
    **{f"encoder_decoder_attn.{name}_proj": f"encoder_attn.{name}_proj" for name in ("q", "k", "v")},
    "encoder_decoder_attn.output_proj": "encoder_attn.out_proj",
    "encoder_decoder_attn_layer_norm": "encoder_attn_layer_norm",
}


def _layers(native: str, foreign: str, names: Names) -> dict[str, str]:
    return {f"{native}.layers.{{layer}}.{ours}": f"{foreign}.{{layer}}.{theirs}" for ours, theirs in names.items()}


def _leaves(modules: Names) -> dict[str, str]:
    return {f"{n}.{leaf}": f"{f}.{leaf}" for n, f in modules.items() for leaf in ("weight", "bias")}


def _decoder(embed: str, position: str, layers: str, names: Names, norm: str, output: str) -> dict[str, str]:
    ends = {"decoder_frontend.embed": embed, "decoder_frontend.position": position}
    return _leaves({**ends, **_layers("decoder", layers, names), "decoder.layer_norm": norm, "final_proj": output})


def _encoder_decoder() -> dict[str, str]:
    ends = {
        "encoder_frontend.position": "model.encoder.embed_positions",
        "decoder_frontend.embed": "model.shared",
        "decoder_frontend.position": "model.decoder.embed_positions",
        "encoder.layer_norm": "model.encoder.layer_norm",
        "decoder.layer_norm": "model.decoder.layer_norm",
        "final_proj": "lm_head",
    }
    layers = {
        **_layers("encoder", "model.encoder.layers", _BART_LAYER),
        **_layers("decoder", "model.decoder.layers", {**_BART_LAYER, **_BART_CROSS}),
    }
    return _leaves({**ends, **layers})


_REFERENCE = _decoder("tok_embeddings", "pos_embeddings", "layers", _REFERENCE_LAYER, "norm", "output")

LAYOUTS: Mapping[ModelKind, Mapping[Layout, Names]] = {
    "decoder": {
        "reference": _REFERENCE,
        "hf": _decoder(
            "model.embed_tokens", "model.embed_positions", "model.layers", _HF_LAYER, "model.norm", "lm_head"
        ),
        "gguf": _decoder("token_embd", "position_embd", "blk", _GGUF_LAYER, "output_norm", "output"),
    },
    "encoder_decoder": {"hf": _encoder_decoder()},
}
"""Native pattern to foreign pattern, by kind of model and layout."""

DOCS: Mapping[Layout, str] = {
    "reference": "The names of the authors' own code to ours.",
    "hf": "Hugging Face's names to ours.",
    "gguf": "The names of llama.cpp's GGUF files to ours.",
}
"""One line about each layout."""

CONTAINERS: Mapping[str, Layout] = {"safetensors": "hf", "pickle": "hf", "dcp": "hf", "gguf": "gguf"}
"""The layout that each kind of file is expected to have."""

RECOMPUTED: Mapping[Layout, Names] = {
    "reference": {"rope.freqs": "recomputed from rope_theta"},
    "hf": {"model.layers.{layer}.self_attn.rotary_emb.inv_freq": "recomputed from rope_theta"},
    "gguf": {},
}
"""Tensors that old checkpoints hold although they follow from the config: pattern to reason."""

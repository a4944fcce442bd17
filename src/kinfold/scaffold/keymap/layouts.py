"""How the known layouts of checkpoints name the parameters of a model.

One table a layout and kind of model, native name to foreign name. The spec's reader looks the tensors of a
checkpoint up in them, and the rules of a new family's key maps are rendered from them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from kinfold.scaffold.keymap.parameters import LAMBDAS, OF_XIELU
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
    "self_attn.gate_proj": "self_attn.gate_proj",
    "self_attn.dynamic_mask.proj": "self_attn.dt_proj",
    "self_attn.output_norm": "self_attn.attn_sub_norm",
    "self_attn.q_down_proj": "self_attn.q_a_proj",
    "self_attn.q_latent_norm": "self_attn.q_a_layernorm",
    "self_attn.q_up_proj": "self_attn.q_b_proj",
    "self_attn.kv_down_proj": "self_attn.kv_a_proj_with_mqa",
    "self_attn.kv_latent_norm": "self_attn.kv_a_layernorm",
    "self_attn.kv_up_proj": "self_attn.kv_b_proj",
    **{f"encoder_decoder_attn.{name}_proj": f"encoder_attn.{name}_proj" for name in ("q", "k", "v")},
    "encoder_decoder_attn.output_proj": "encoder_attn.out_proj",
    "encoder_decoder_attn_layer_norm": "encoder_attn_layer_norm",
    "ffn_layer_norm": "post_attention_layernorm",
    "ffn.gate_proj": "mlp.gate_proj",
    "ffn.inner_proj": "mlp.up_proj",
    "ffn.output_proj": "mlp.down_proj",
    "ffn.inner_norm": "mlp.ffn_sub_norm",
}

_HF_PARAMETERS = {
    **{f"self_attn.{name}": f"self_attn.{name}" for name in LAMBDAS},
    "self_attn.sinks.weight": "self_attn.sinks",
    "self_attn.gate_bias.weight": "self_attn.gate_bias",
    "self_attn.dynamic_mask.rate": "self_attn.A",
    "self_attn_residual.weight": "input_residual",
    "ffn_residual.weight": "post_attention_residual",
    **{f"ffn.activation.{name}": f"mlp.act_fn.{name}" for name in OF_XIELU},
}
"""Parameters of a layer that are none of a module there."""

_GGUF_LAYER = {
    "self_attn_layer_norm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.output_proj": "attn_output",
    "self_attn.gate_proj": "attn_gate",
    "self_attn.output_norm": "attn_sub_norm",
    "self_attn.sinks": "attn_sinks",
    "ffn_layer_norm": "ffn_norm",
    "ffn.gate_proj": "ffn_gate",
    "ffn.inner_proj": "ffn_up",
    "ffn.output_proj": "ffn_down",
    "ffn.inner_norm": "ffn_sub_norm",
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


def _decoder(layers: str, layer: Names, ends: Names, parameters: Names = MappingProxyType({})) -> dict[str, str]:
    modules = _leaves({**_layers("decoder", layers, layer), **ends})
    return {**modules, **_layers("decoder", layers, parameters)}


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


_HF_ENDS = {
    "decoder_frontend.embed": "model.embed_tokens",
    "decoder_frontend.project": "model.project_in",
    "decoder_frontend.position": "model.embed_positions",
    "decoder_frontend.norm": "model.embed_norm",
    "decoder.layer_norm": "model.norm",
    "transform.proj": "lm_head.dense",
    "transform.norm": "lm_head.norm",
    "project_out": "model.project_out",
    "final_proj": "lm_head",
}

_GGUF_ENDS = {
    "decoder_frontend.embed": "token_embd",
    "decoder_frontend.position": "position_embd",
    "decoder_frontend.norm": "token_embd_norm",
    "decoder.layer_norm": "output_norm",
    "final_proj": "output",
}

_REFERENCE_ENDS = {
    "decoder_frontend.embed": "tok_embeddings",
    "decoder_frontend.position": "pos_embeddings",
    "decoder.layer_norm": "norm",
    "final_proj": "output",
}

LAYOUTS: Mapping[ModelKind, Mapping[Layout, Names]] = {
    "decoder": {
        "reference": _decoder("layers", _REFERENCE_LAYER, _REFERENCE_ENDS),
        "hf": _decoder("model.layers", _HF_LAYER, _HF_ENDS, _HF_PARAMETERS),
        "gguf": _decoder("blk", _GGUF_LAYER, _GGUF_ENDS),
    },
    "encoder_decoder": {"hf": _encoder_decoder()},
}
"""Native pattern to foreign pattern, by kind of model and layout; norms as where they come before sublayers."""

_NORMS: Mapping[Layout, Mapping[str, Names]] = {
    "hf": {
        "output": {
            "self_attn_layer_norm": "post_attention_layernorm",
            "ffn_layer_norm": "post_feedforward_layernorm",
        },
        "both": {
            "self_attn_layer_norm": "input_layernorm",
            "self_attn_output_layer_norm": "post_attention_layernorm",
            "ffn_layer_norm": "pre_feedforward_layernorm",
            "ffn_output_layer_norm": "post_feedforward_layernorm",
        },
        "shared": {"layer_norm": "input_layernorm"},
    },
    "gguf": {
        "output": {"self_attn_layer_norm": "post_attention_norm", "ffn_layer_norm": "post_ffw_norm"},
        "both": {
            "self_attn_layer_norm": "attn_norm",
            "self_attn_output_layer_norm": "post_attention_norm",
            "ffn_layer_norm": "ffn_norm",
            "ffn_output_layer_norm": "post_ffw_norm",
        },
        "shared": {"layer_norm": "attn_norm"},
    },
    "reference": {},
}
"""What the norms of a layer are called where they stand elsewhere, by layout and arrangement."""

_LAYERS: Mapping[Layout, str] = {"hf": "model.layers", "gguf": "blk", "reference": "layers"}


def names_of(model: ModelKind, layout: Layout, arrangement: str) -> Names:
    """Native pattern to foreign pattern for one arrangement of the norms of a layer.

    Args:
        model: The kind of model.
        layout: The layout.
        arrangement: `shared`, or what `norm.order` is.
    """
    names = LAYOUTS[model][layout]
    if arrangement in ("pre", "post"):
        return names
    others = {native: foreign for native, foreign in names.items() if not _NORM_OF_LAYER.fullmatch(native)}
    return {**others, **_leaves(_layers("decoder", _LAYERS[layout], _NORMS[layout].get(arrangement, {})))}


_NORM_OF_LAYER = re.compile(r"decoder\.layers\.\{layer\}\.\w+_layer_norm\.\w+")

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

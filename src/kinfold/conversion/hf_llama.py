"""Whether a family computes what transformers' Llama, Mistral, Qwen2 and Qwen3 compute, tried on a small model of it.

Names and shapes of parameters do not tell: a norm may stand elsewhere, a scale may be hidden in a factory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from kinfold.nn import DecodeState, Rotary

if TYPE_CHECKING:
    from torch import nn

_LAYERS, _WINDOW, _LENGTH, _TOLERANCE = 2, 5, 11, 1e-6
_SMALL = {"model_dim": 24, "num_layers": _LAYERS, "ffn_inner_dim": 40, "vocab_size": 32}
_TOKENS = ("unk_idx", "bos_idx", "eos_idx", "pad_idx")


def computes_as_llama(create: Callable[..., nn.Module], config: Any) -> bool:
    """Whether a small model of a family gives the logits that the published computation gives with its weights.

    Args:
        create: Makes a model of the family.
        config: Its config, of which what is no size is kept.
    """
    heads = {"num_heads": 4, **({"num_kv_heads": 2} if hasattr(config, "num_kv_heads") else {})}
    absent = {name: None for name in _TOKENS if hasattr(config, name)}
    window = {"sliding_window": _WINDOW} if getattr(config, "sliding_window", None) else {}
    small = replace(config, **_SMALL, **heads, **absent, **window)
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        model = create(small, device="cpu", dtype=torch.float64).eval()
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        token_ids = torch.randint(small.vocab_size, (2, _LENGTH))
        ours = model(token_ids)
        theirs = _logits(model, model.state_dict(), small, token_ids)
    return bool((ours - theirs).abs().max() <= _TOLERANCE * theirs.abs().max())


def _logits(model: nn.Module, weights: Mapping[str, Tensor], config: Any, token_ids: Tensor) -> Tensor:
    """Touvron et al. 2023, section 2.2, with what Mistral (a window) and Qwen (biases, norms of q and k) add."""
    embed = weights["decoder_frontend.embed.weight"]
    state = DecodeState()
    state.extend(token_ids)
    rotary = Rotary(config.head_dim, theta=config.rope_theta, scaling=getattr(config, "rope_scaling", None))
    activation = model.get_submodule("decoder.layers.0.ffn.activation")

    def project(x: Tensor, name: str) -> Tensor:
        return linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def norm(x: Tensor, name: str) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + config.norm_eps) * weights[f"{name}.weight"]

    def heads(x: Tensor, name: str) -> Tensor:
        x = project(x, f"{name}_proj").unflatten(-1, (-1, config.head_dim)).transpose(1, 2)
        return norm(x, f"{name}_norm") if f"{name}_norm.weight" in weights else x

    mask = torch.ones(_LENGTH, _LENGTH, dtype=torch.bool).tril()
    if getattr(config, "sliding_window", None):
        mask = mask.triu(1 - config.sliding_window)
    x = embed[token_ids]
    for number in range(_LAYERS):
        layer = f"decoder.layers.{number}"
        read, attn = norm(x, f"{layer}.self_attn_layer_norm"), f"{layer}.self_attn"
        q, k, v = (heads(read, f"{attn}.{name}") for name in "qkv")
        attended = scaled_dot_product_attention(rotary(q, state), rotary(k, state), v, mask, enable_gqa=True)
        x = x + project(attended.transpose(1, 2).flatten(2), f"{attn}.output_proj")
        read, ffn = norm(x, f"{layer}.ffn_layer_norm"), f"{layer}.ffn"
        gated = activation(project(read, f"{ffn}.gate_proj")) * project(read, f"{ffn}.inner_proj")
        x = x + project(gated, f"{ffn}.output_proj")
    return linear(norm(x, "decoder.layer_norm"), weights.get("final_proj.weight", embed))

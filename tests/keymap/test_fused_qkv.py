"""Fused projections: what a rule takes out of them is what the model's own forward pass uses, in transformers' code."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kinfold import KeyMap, convert_model_state_dict
from kinfold.checkpoint.manifest import state_dict_manifest
from kinfold.keymap import Rule, certify, chain, split, transpose
from kinfold.keymap.ops import TensorSource

HEADS, KV_HEADS, HEAD_DIM, DIM = 8, 2, 6, 48
QKV = ("q", "k", "v")
SIZES = {"hidden_size": DIM, "num_attention_heads": HEADS, "attn_implementation": "eager"}
ALL_TURNS = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}


def fused(name: str, *, kv_heads: int, groups: int = 1, order: str = "qkv") -> Callable[[str], Rule]:
    """The rule for the fused weight, or bias, of a model."""
    sizes = {"q": HEADS * HEAD_DIM, "k": kv_heads * HEAD_DIM, "v": kv_heads * HEAD_DIM}
    return lambda kind: split(
        f"{name}.{kind}",
        into=[f"{part}.{kind}" for part in order],
        sizes=[sizes[part] for part in order],
        groups=groups,
    )


def of_conv1d(kind: str) -> Rule:
    """GPT-2 has its weight transposed."""
    parts = split(f"c_attn.{kind}", into=[f"{part}.{kind}" for part in QKV], sizes=(DIM, DIM, DIM))
    if kind == "bias":
        return parts
    turned = split("t", into=[f"{part}.weight" for part in QKV], sizes=(DIM, DIM, DIM))
    return chain(transpose("c_attn.weight", "t"), turned)


LAYOUTS: dict[str, tuple[str, str, dict[str, Any], str, Callable[[str], Rule]]] = {
    "GPT-NeoX, by heads": (
        "gpt_neox", "GPTNeoX", {"rope_parameters": ALL_TURNS}, "eager_attention_forward",
        fused("query_key_value", kv_heads=HEADS, groups=HEADS),
    ),
    "Bloom, by heads": (
        "bloom", "Bloom", {}, "_reshape",
        fused("query_key_value", kv_heads=HEADS, groups=HEADS),
    ),
    "Persimmon, by heads": (
        "persimmon", "Persimmon", {"qk_layernorm": False, "rope_parameters": ALL_TURNS}, "eager_attention_forward",
        fused("query_key_value", kv_heads=HEADS, groups=HEADS),
    ),
    "Falcon, by heads": (
        "falcon", "Falcon", {"multi_query": False, "new_decoder_architecture": False, "bias": True}, "_split_heads",
        fused("query_key_value", kv_heads=HEADS, groups=HEADS),
    ),
    "Falcon 7B, one key-value head": (
        "falcon", "Falcon", {"multi_query": True, "new_decoder_architecture": False, "bias": True}, "_split_heads",
        fused("query_key_value", kv_heads=1),
    ),
    "Falcon 40B, by key-value heads": (
        "falcon", "Falcon", {"new_decoder_architecture": True, "num_kv_heads": KV_HEADS, "bias": True}, "_split_heads",
        fused("query_key_value", kv_heads=KV_HEADS, groups=KV_HEADS),
    ),
    "Phi-3, blocks": (
        "phi3", "Phi3", {"num_key_value_heads": KV_HEADS, "pad_token_id": 0}, "eager_attention_forward",
        fused("qkv_proj", kv_heads=KV_HEADS),
    ),
    "GPT-BigCode, one key-value head": (
        "gpt_bigcode", "GPTBigCode", {"multi_query": True}, "eager_attention_forward",
        fused("c_attn", kv_heads=1),
    ),
    "GPT-BigCode, by heads": (
        "gpt_bigcode", "GPTBigCode", {"multi_query": False}, "eager_attention_forward",
        fused("c_attn", kv_heads=HEADS, groups=HEADS),
    ),
    "GPT-2, blocks of a transposed weight": ("gpt2", "GPT2", {}, "eager_attention_forward", of_conv1d),
    "CodeGen, by the four cores it was trained on, values before keys": (
        "codegen", "CodeGen", {"rotary_dim": 4}, "_attn",
        fused("qkv_proj", kv_heads=HEADS, groups=4, order="qvk"),
    ),
}  # fmt: skip
"""For each: the module of transformers, its prefix and options, what its forward pass splits or takes, and the rule."""


def created(layout: str) -> tuple[Any, nn.Module]:
    """The module of transformers, and its attention, filled with numbers that differ."""
    name, prefix, options, _, _ = LAYOUTS[layout]
    module = import_module(f"transformers.models.{name}.modeling_{name}")
    config = getattr(import_module("transformers"), f"{prefix}Config")(**SIZES, **options)
    attention: nn.Module = getattr(module, f"{prefix}Attention")(config, layer_idx=0).eval()
    for number, parameter in enumerate(attention.parameters()):  # whole numbers, so that sums are exact
        values = torch.arange(parameter.numel(), dtype=torch.float32).view(parameter.shape)
        parameter.data = values + 5000 * number
    return module, attention


def map_and_state(layout: str, attention: nn.Module) -> tuple[KeyMap, dict[str, Tensor]]:
    """The key map of a layout, and the tensors that it takes."""
    key_map = KeyMap(*map(LAYOUTS[layout][-1], ("weight", "bias")))
    sources = {pattern.text for rule in key_map for pattern in rule.sources}
    return key_map, {name: tensor for name, tensor in attention.state_dict().items() if name in sources}


def spied(module: Any, attention: nn.Module, spot: str, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """A list that q, k and v are put into when `attention` has split them."""
    seen: list[Tensor] = []

    def gives(fused_qkv: Tensor) -> tuple[Tensor, ...]:
        parts = split_heads(fused_qkv)
        seen.extend(parts)
        return parts

    def takes(*arguments: Any, **_: Any) -> tuple[Tensor, None]:
        q, k, v = [argument for argument in arguments if isinstance(argument, Tensor)][:3]
        seen.extend((q, k, v))
        return (q if spot == "_attn" else q.transpose(1, 2)), None

    if spot in ("_reshape", "_split_heads"):
        split_heads = getattr(attention, spot)
        monkeypatch.setattr(attention, spot, gives)
    else:
        monkeypatch.setattr(attention if spot == "_attn" else module, spot, takes)
    return seen


def rows(states: Tensor, *, heads_first: bool) -> Tensor:
    """What each row of a projection gave: (heads, rows of a head, tokens)."""
    return (states[0] if heads_first else states[0].transpose(0, 1)).transpose(1, 2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_split_gives_what_the_model_uses(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, _, _, spot, _ = LAYOUTS[layout]
    module, attention = created(layout)
    seen = spied(module, attention, spot, monkeypatch)

    tokens = torch.cat([torch.eye(DIM), torch.zeros(1, DIM)])[None]  # each shows one column, the last one the bias
    cos, sin = torch.ones(1, DIM + 1, HEAD_DIM), torch.zeros(1, DIM + 1, HEAD_DIM)
    known = {
        "attention_mask": torch.zeros(1, 1, DIM + 1, DIM + 1),
        "position_embeddings": (cos, sin),
        "position_ids": torch.zeros(1, DIM + 1, dtype=torch.int64),
        "alibi": torch.zeros(HEADS, 1, DIM + 1) if name == "bloom" else None,
        "residual": torch.zeros_like(tokens),
    }
    accepted = attention.forward.__code__.co_varnames[: attention.forward.__code__.co_argcount]
    with torch.no_grad():
        attention(tokens, **{key: value for key, value in known.items() if key in accepted})

    key_map, state = map_and_state(layout, attention)
    native = convert_model_state_dict(state, key_map)
    for part, states in zip(QKV, seen, strict=True):
        bias = native.get(f"{part}.bias", torch.zeros(len(native[f"{part}.weight"])))
        wanted = torch.cat([native[f"{part}.weight"] + bias[:, None], bias[:, None]], dim=1)
        wanted = wanted.unflatten(0, (-1, HEAD_DIM))
        used = rows(states, heads_first=spot != "_split_heads")
        assert torch.equal(used, wanted.repeat_interleave(len(used) // len(wanted), dim=0))


def test_internlm2_by_key_value_heads() -> None:
    groups = HEADS // KV_HEADS
    wqkv = torch.randn((HEADS + 2 * KV_HEADS) * HEAD_DIM, DIM)
    # modeling_internlm2.py: rearrange(qkv, "b q (h gs d) -> b q h gs d", gs=2 + groups, d=head_dim)
    states = (torch.eye(DIM) @ wqkv.T).view(1, DIM, KV_HEADS, 2 + groups, HEAD_DIM)
    used = {"q": states[..., :groups, :], "k": states[..., -2, :], "v": states[..., -1, :]}
    rule = fused("wqkv", kv_heads=KV_HEADS, groups=KV_HEADS)("weight")
    native = convert_model_state_dict({"wqkv.weight": wqkv}, KeyMap(rule))
    for part, tensor in used.items():
        assert torch.equal(native[f"{part}.weight"], tensor.flatten(2)[0].T)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_way_back_gives_the_fused_weight_and_ranks_read_their_parts(layout: str) -> None:
    key_map, state = map_and_state(layout, created(layout)[1])
    bound, source = key_map.bind(), state_dict_manifest(state)
    plan = certify(bound, source, bound.target_manifest(source)).plan
    native = dict(plan.load(state.__getitem__))
    back = dict(plan.export(native.__getitem__))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)
    for name, tensor in native.items():
        half = len(tensor) // 2
        rest = [range(size) for size in tensor.shape[1:]]
        halves = [
            plan.read(name, (rows, *rest), lambda source: TensorSource(state[source]))
            for rows in (range(half), range(half, len(tensor)))
        ]
        assert torch.equal(torch.cat(halves), tensor)

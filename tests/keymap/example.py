"""A key map with a rule of every kind, and a checkpoint and a model that it explains to each other."""

from __future__ import annotations

from types import SimpleNamespace

from kinfold.checkpoint import TensorInfo
from kinfold.keymap import Rule, concat, drop, permute_rotary, rename, split, stack, tie, transpose

CONFIG = SimpleNamespace(num_heads=4, num_kv_heads=2, q_dim=16, kv_dim=8, ffn_dim=6)
LAYERS, EXPERTS = 3, 11

RULES: list[Rule] = [
    rename("tok.weight", "embed.weight"),
    permute_rotary("layers.{layer}.q.weight", "decoder.{layer}.q.weight", heads="num_heads"),
    split(
        "layers.{layer}.kv.weight",
        into=("decoder.{layer}.k.weight", "decoder.{layer}.v.weight"),
        sizes=("kv_dim", "kv_dim"),
    ),
    rename("layers.{layer}.norm1.weight", "decoder.{layer}.norm.weight"),
    transpose("layers.{layer}.router.weight", "decoder.{layer}.router.weight"),
    concat(
        ("layers.{layer}.gate.weight", "layers.{layer}.up.weight"),
        into="decoder.{layer}.gate_up.weight",
        sizes=("ffn_dim", "ffn_dim"),
    ),
    stack("layers.{layer}.experts.{expert}.w2.weight", "decoder.{layer}.experts", over="expert"),
    rename("layers.{layer}.moe_bias", "decoder.{layer}.moe_bias"),
    rename("out.weight", "final.weight"),
    tie("head.weight", to="tok.weight"),
    drop("layers.{layer}.inv_freq", reason="recomputed"),
]


def info(*shape: int, dtype: str = "float32") -> TensorInfo:
    return TensorInfo(shape, dtype, dtype)


def manifests() -> tuple[dict[str, TensorInfo], dict[str, TensorInfo]]:
    """A checkpoint and a model that the rules explain to each other."""
    source = {"tok.weight": info(20, 12), "head.weight": info(20, 12), "out.weight": info(20, 14)}
    target = {"embed.weight": info(20, 12), "final.weight": info(20, 14)}
    for n in range(LAYERS):
        source |= {f"layers.{n}.q.weight": info(16, 12), f"layers.{n}.kv.weight": info(16, 12)}
        source |= {f"layers.{n}.norm1.weight": info(12), f"layers.{n}.router.weight": info(12, EXPERTS)}
        source |= {f"layers.{n}.gate.weight": info(6, 12), f"layers.{n}.up.weight": info(6, 12)}
        source |= {f"layers.{n}.experts.{e}.w2.weight": info(12, 6) for e in range(EXPERTS)}
        source |= {f"layers.{n}.inv_freq": info(4), f"layers.{n}.moe_bias": info(EXPERTS)}
        target |= {f"decoder.{n}.q.weight": info(16, 12), f"decoder.{n}.k.weight": info(8, 12)}
        target |= {f"decoder.{n}.v.weight": info(8, 12), f"decoder.{n}.norm.weight": info(12)}
        target |= {f"decoder.{n}.router.weight": info(EXPERTS, 12), f"decoder.{n}.gate_up.weight": info(12, 12)}
        target |= {f"decoder.{n}.experts": info(EXPERTS, 12, 6), f"decoder.{n}.moe_bias": info(EXPERTS)}
    return source, target

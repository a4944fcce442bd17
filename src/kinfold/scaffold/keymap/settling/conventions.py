"""What names alone say about the order of values, because one code base has fixed it: two tables to extend.

Neither names nor shapes show in which order the rows of a projection lie. Where a name belongs to a published code
base, that code is the evidence; any other name leaves the question open, for values or a reference to settle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from kinfold.keymap import Pattern
from kinfold.scaffold.keymap.pairing import RotaryOrder

Turns = Literal["one after the other", "by key-value heads"]

_META = "layers.{layer}.attention.wq.weight"

ROTARY: Mapping[str, tuple[RotaryOrder, str]] = {
    _META: (
        "interleaved",
        "its names are those of Meta's and Mistral's reference code, where neighbours turn together",
    ),
    "model.layers.{layer}.self_attn.q_proj.weight": ("halves", "its names are those of transformers"),
    "model.layers.{layer}.self_attn.qkv_proj.weight": ("halves", "its names are those of transformers"),
    "decoder.layers.{layer}.self_attn.q_proj.weight": ("halves", "its names are ours"),
}
"""The name of a query projection to how its rows lie, and why."""

FUSED: Mapping[str, tuple[Turns, str]] = {
    "model.layers.{layer}.self_attn.qkv_proj": ("one after the other", "Phi-3"),
    "model.layers.{layer}.mlp.gate_up_proj": ("one after the other", "Phi-3"),
    "transformer.h.{layer}.attn.c_attn": ("one after the other", "GPT-2"),
    "gpt_neox.layers.{layer}.attention.query_key_value": ("by key-value heads", "GPT-NeoX"),
    "transformer.h.{layer}.self_attention.query_key_value": ("by key-value heads", "Bloom and Falcon"),
    "model.layers.{layer}.attention.wqkv": ("by key-value heads", "InternLM2"),
}
"""The module of a fused projection to how its parts lie, and who lays them so."""


def rotary_convention(names: Iterable[str]) -> tuple[RotaryOrder, str] | None:
    """How the rows of queries and keys lie in a checkpoint with these names, and why; None if they do not say."""
    patterns = [(Pattern(text), said) for text, said in ROTARY.items()]
    found = {said for name in names for pattern, said in patterns if pattern.match(name) is not None}
    return found.pop() if len(found) == 1 else None


def fused_convention(name: str) -> tuple[Turns, str] | None:
    """How the parts of a fused parameter of this name lie, and who lays them so; None if it does not say."""
    module = name.rpartition(".")[0]
    for text, said in FUSED.items():
        if Pattern(text).match(module) is not None:
            return said
    return None

"""Rendering the key maps of a new family as the source text of its rules."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import shorten

from kinfold.keymap import drop
from kinfold.scaffold.keymap.layouts import LAYOUTS, Layout
from kinfold.scaffold.spec.schema import KeyMapSpec, Spec

_LAYER = "decoder.layers.{layer}."
_EMBED = "decoder_frontend.embed.weight"
_OUTPUT = "final_proj.weight"
_ROTATED = {f"{_LAYER}self_attn.{name}_proj": f"num_{kind}heads" for name, kind in (("q", ""), ("k", "kv_"))}
"""Modules whose rows rotate, and the config field that says how many heads they have."""


def native_parameters(spec: Spec) -> Iterator[str]:
    """The patterns of the parameters that a family of this spec has, in the order of its state dict."""
    attention, ffn = spec.attention, spec.ffn

    def leaves(module: str, *, bias: bool = False) -> Iterator[str]:
        yield f"{module}.weight"
        if bias:
            yield f"{module}.bias"

    yield _EMBED
    for name in ("q", "k", "v"):
        yield from leaves(f"{_LAYER}self_attn.{name}_proj", bias=attention.qkv_bias)
    yield from leaves(f"{_LAYER}self_attn.output_proj", bias=attention.output_bias)
    if attention.qk_norm:
        yield from (f"{_LAYER}self_attn.{name}_norm.weight" for name in ("q", "k"))
    yield f"{_LAYER}self_attn_layer_norm.weight"
    for name in ("gate", "inner", "output") if ffn.kind == "gated" else ("inner", "output"):
        yield from leaves(f"{_LAYER}ffn.{name}_proj", bias=ffn.bias)
    yield f"{_LAYER}ffn_layer_norm.weight"
    yield "decoder.layer_norm.weight"
    if not all(sizes.tied_embeddings for sizes in spec.sizes().values()):
        yield _OUTPUT


def key_map_rules(spec: Spec, layout: Layout) -> list[str]:
    """The rules of a family's key map for `layout`, each as a line of source."""
    options = spec.key_maps[layout]
    names = LAYOUTS[layout]
    rules = [_rule(names[native], native, options) for native in native_parameters(spec)]
    if options.repeats_embedding:
        rules.append(f'tie("{names[_OUTPUT]}", to="{names[_EMBED]}")')
    for pattern, reason in options.drop.items():  # quoted by the rule itself, since they may be anybody's words
        rules.append(drop(pattern, reason=shorten(reason, 60, placeholder=" ...")).text)
    return rules


def _rule(foreign: str, native: str, options: KeyMapSpec) -> str:
    module = native.rpartition(".")[0]
    if options.rotary_pairs == "interleaved" and module in _ROTATED:
        return f'permute_rotary("{foreign}", "{native}", heads="{_ROTATED[module]}")'
    return f'rename("{foreign}", "{native}")'

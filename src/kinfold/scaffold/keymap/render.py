"""Rendering the key maps of a new family as the source text of its rules."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import shorten

from kinfold.keymap import drop, tie
from kinfold.keymap.rules import Rule
from kinfold.scaffold.keymap.layouts import LAYOUTS
from kinfold.scaffold.spec.schema import Drop, KeyMapSpec, Layout, Spec

_EMBED = "decoder_frontend.embed.weight"
_OUTPUT = "final_proj.weight"
_ROTATED = {
    f"decoder.layers.{{layer}}.self_attn.{name}_proj": f"num_{kind}heads" for name, kind in (("q", ""), ("k", "kv_"))
}
"""Modules whose rows rotate, and the config field that says how many heads they have."""


def native_parameters(spec: Spec) -> Iterator[str]:
    """The patterns of the parameters that a family of this spec has, in the order of its state dict."""
    if spec.model == "encoder_decoder":
        yield from _position(spec, "encoder_frontend")
        yield from _stack(spec, "encoder", ("self_attn",))
        yield _EMBED
        yield from _position(spec, "decoder_frontend")
        yield from _stack(spec, "decoder", ("self_attn", "encoder_decoder_attn"))
    else:
        yield _EMBED
        yield from _position(spec, "decoder_frontend")
        yield from _stack(spec, "decoder", ("self_attn",))
    if not all(sizes.tied_embeddings for sizes in spec.sizes().values()):
        yield _OUTPUT


def key_map_rules(spec: Spec, layout: Layout) -> list[str]:
    """The rules of a family's key map for `layout`, each as a line of source."""
    options = spec.key_maps[layout]
    names = LAYOUTS[spec.model][layout]
    rules = [_rule(names[native], native, options) for native in native_parameters(spec)]
    if options.repeats_embedding:
        rules = _with_copied_embedding(rules, names[_OUTPUT], names[_EMBED], varies=_OUTPUT in native_parameters(spec))
    # Quoted by the rules themselves, since they may be anybody's words.
    rules += [tie(copy, to=original, written=False).text for copy, original in options.copies.items()]
    rules += [_drop(name, why).text for name, why in options.drop.items()]
    return rules


def _stack(spec: Spec, stack: str, attentions: tuple[str, ...]) -> Iterator[str]:
    """The parameters of an encoder or a decoder."""
    layer = f"{stack}.layers.{{layer}}"
    norm_bias = spec.norm.kind == "layer"
    for attention in attentions:
        for name in ("q", "k", "v"):
            yield from _leaves(f"{layer}.{attention}.{name}_proj", bias=spec.attention.qkv_bias)
        yield from _leaves(f"{layer}.{attention}.output_proj", bias=spec.attention.output_bias)
        if spec.attention.qk_norm:
            yield from (f"{layer}.{attention}.{name}_norm.weight" for name in ("q", "k"))
        yield from _leaves(f"{layer}.{attention}_layer_norm", bias=norm_bias)
    for name in ("gate", "inner", "output") if spec.ffn.kind == "gated" else ("inner", "output"):
        yield from _leaves(f"{layer}.ffn.{name}_proj", bias=spec.ffn.bias)
    yield from _leaves(f"{layer}.ffn_layer_norm", bias=norm_bias)
    if spec.norm.order == "pre":
        yield from _leaves(f"{stack}.layer_norm", bias=norm_bias)


def _position(spec: Spec, frontend: str) -> Iterator[str]:
    if spec.position.kind == "learned":
        yield f"{frontend}.position.weight"


def _leaves(module: str, *, bias: bool) -> Iterator[str]:
    yield f"{module}.weight"
    if bias:
        yield f"{module}.bias"


def _rule(foreign: str, native: str, options: KeyMapSpec) -> str:
    module = native.rpartition(".")[0]
    if options.rotary_pairs == "interleaved" and module in _ROTATED:
        return f'permute_rotary("{foreign}", "{native}", heads="{_ROTATED[module]}")'
    return f'rename("{foreign}", "{native}")'


def _drop(name: str, why: str | Drop) -> Rule:
    reason, when = (why, None) if isinstance(why, str) else (why.reason, why.when)
    return drop(name, reason=shorten(reason, 60, placeholder=" ..."), when=when)


def _with_copied_embedding(rules: list[str], output: str, embed: str, *, varies: bool) -> list[str]:
    """The rules for checkpoints that hold the output projection even where it is the embedding."""
    if not varies:
        return [*rules, f'tie("{output}", to="{embed}")']
    own = f'rename("{output}", "{_OUTPUT}")'
    others = [rule for rule in rules if rule != own]
    switched = f'rename("{output}", "{_OUTPUT}", unless="tied_embeddings")'
    return [*others, switched, f'tie("{output}", to="{embed}", when="tied_embeddings")']

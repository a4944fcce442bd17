"""What the templates of a family are filled with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from textwrap import shorten
from typing import Any

from kinfold.scaffold.keymap.layouts import DOCS
from kinfold.scaffold.keymap.render import called_functions, key_map_rules
from kinfold.scaffold.naming import arch_function, class_prefix
from kinfold.scaffold.render import parts
from kinfold.scaffold.render.attention import dims, kv_dim, plain_attention, self_attention
from kinfold.scaffold.render.ends import model_ends
from kinfold.scaffold.render.fields import Field, arch_changes, config_fields, scaling_classes
from kinfold.scaffold.render.layers import layer, stack
from kinfold.scaffold.render.positions import positions
from kinfold.scaffold.render.sharding import shard_plan
from kinfold.scaffold.spec.checks import checks
from kinfold.scaffold.spec.schema import Spec
from kinfold.scaffold.spec.sizes import TOKENS

_VERBS = ("create", "load", "shard")
_PART = re.compile(r"(?<![\w.])([A-Z]\w+|scaled_inner_dim|in_turns|lambda_init)\(")


def family_context(family: str, package: str, spec: Spec) -> dict[str, Any]:
    """The values of the holes in the templates of a family.

    Args:
        family: The name of the family.
        package: The package it becomes a module of.
        spec: The spec.
    """
    parts_used = {**_STRUCTURES[spec.model](spec), "inner_dim": parts.inner_dim(spec)}
    names, scalings = spec.field_names(), scaling_classes(spec)
    rules = {layout: key_map_rules(spec, layout) for layout in spec.key_maps}
    title = class_prefix(family)
    archs = [_arch(*arch, spec=spec, title=title) for arch in arch_changes(spec)]
    return {
        "family": family,
        "package": package,
        "title": title,
        "summary": _summary(title, spec),
        "functions": sorted([*(f"{verb}_{family}_model" for verb in _VERBS), f"{family}_arch", f"{family}_archs"]),
        **parts_used,
        "nn_imports": sorted({*_used_parts(parts_used), *scalings}),
        "fields": "\n".join(_field(field) for field in config_fields(spec)),
        "tokens": [name for name in TOKENS if name in names],
        "checks": "\n".join(f"            check.{method}({_quoted(fields)})" for method, fields in checks(spec, names)),
        "archs": archs,
        "arch_imports": sorted({name for arch in archs for name in _PART.findall(arch["body"])}.intersection(scalings)),
        "key_maps": {layout: ",\n    ".join(lines) for layout, lines in rules.items()},
        "key_map_docs": DOCS,
        "key_map_imports": sorted({"KeyMap", *called_functions(line for lines in rules.values() for line in lines)}),
        "shard_plan": shard_plan(spec),
        "small": ", ".join(f"{name}={value}" for name, value in _small(spec).items() if name in names),
        "trained": _trained(spec),
    }


def _decoder(spec: Spec) -> dict[str, Any]:
    """A decoder alone."""
    position = positions(spec)
    doc = "Attention and feed-forward side by side" if spec.residual.parallel else "Attention, then feed-forward"
    sublayers, attentions = ("self_attn", "ffn"), {"self_attn": self_attention(spec)}
    if spec.attention.to_encoder:
        sublayers = ("self_attn", "encoder_decoder_attn", "ffn")
        doc = "Attention, also to an encoder if there is one, then feed-forward"
        widths = {"q_dim": "q_dim", "kv_dim": kv_dim(spec), "head_dim": "config.head_dim"}
        attentions["encoder_decoder_attn"] = plain_attention(spec, "CrossAttention", **widths)
    decoder_layer = layer(spec, sublayers, doc, attentions)
    number = ["layer"] if _is_numbered(decoder_layer["modules"], decoder_layer["numbers"]) else []
    arguments = ["config", *number, *([position.argument] if position.name else [])]
    parameters = [
        *(f"{name}: int" for name in number),
        *([f"{position.name}: {position.type}"] if position.name else []),
    ]
    return {
        "classes": ["Decoder", "DecoderLayer", "Model"],
        "embedding": parts.embedding(spec),
        "shared": position.shared,
        "layer_arguments": ", ".join(arguments),
        "layer_number": "layer" if number or _is_numbered(position.argument) else "_",
        "layer_parameters": "".join(f", {parameter}" for parameter in parameters),
        "frontend": parts.frontend(spec, "embed"),
        "dims": dims(spec),
        "decoder_layer": decoder_layer,
        "stack": stack(spec),
        "ends": model_ends(spec),
        "to_encoder": spec.attention.to_encoder,
    }


def _encoder_decoder(spec: Spec) -> dict[str, Any]:
    """An encoder, and a decoder that looks at what it gave."""
    widths = {"q_dim": "config.model_dim", "kv_dim": "config.model_dim", "head_dim": "head_dim"}
    self_attn, encoder_decoder_attn = (
        plain_attention(spec, kind, **widths) for kind in ("Attention", "CrossAttention")
    )
    return {
        "classes": ["Decoder", "DecoderLayer", "Encoder", "EncoderLayer", "Model"],
        "encoder_frontend": parts.frontend(spec, "TiedEmbedding(embed)"),
        "decoder_frontend": parts.frontend(spec, "embed"),
        "encoder_layer": layer(spec, ("self_attn", "ffn"), "Attention, then feed-forward", {"self_attn": self_attn}),
        "decoder_layer": layer(
            spec,
            ("self_attn", "encoder_decoder_attn", "ffn"),
            "Attention twice, then feed-forward",
            {"self_attn": self_attn, "encoder_decoder_attn": encoder_decoder_attn},
        ),
        "stack": stack(spec),
        "final_proj": parts.final_projection(spec),
    }


_STRUCTURES = {"decoder": _decoder, "encoder_decoder": _encoder_decoder}


def _used_parts(*values: Any) -> set[str]:
    """The names of the parts that are called anywhere in some source text."""
    return {name for text in _texts(*values) for name in _PART.findall(text)}


def _is_numbered(*values: Any) -> bool:
    """Whether the number of a layer is asked for anywhere in some source text."""
    return any(re.search(r"\blayer\b", text) for text in _texts(*values))


def _texts(*values: Any) -> Iterator[str]:
    """All text in nested values, without the keys."""
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            yield from _texts(*value.values())
        elif isinstance(value, tuple):
            yield from _texts(*value)


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _summary(title: str, spec: Spec) -> str:
    kinds = {"decoder": "a decoder-only language model", "encoder_decoder": "an encoder and a decoder"}
    return f"{title}: {_plain(spec.description).rstrip('.') or kinds[spec.model]}."


def _plain(text: str) -> str:
    """A text, which may come out of a checkpoint, as it can stand in a docstring of one line."""
    return shorten(text.replace("\\", "/").replace('"', "'"), 72, placeholder=" ...")


def _field(field: Field) -> str:
    return f'    {field.name}: {field.type} = {field.default}\n    """{field.doc}"""\n'


def _arch(name: str, changes: list[tuple[str, str]], *, spec: Spec, title: str) -> dict[str, str]:
    """One function of `archs.py`: the default arch gives the defaults, others change what differs."""
    default = next(iter(spec.archs))
    doc = _plain(spec.archs[name].description)
    if name == default:
        doc, lines = doc or "The defaults.", [f"return {title}Config()"]
    else:
        start = f"config = {arch_function(default)}()"
        doc = doc or f"Sizes that differ from those of `{default}`."
        lines = [start, *(f"config.{field} = {value}" for field, value in changes), "return config"]
    return {
        "name": name,
        "function": arch_function(name),
        "doc": doc,
        "body": "\n".join(f"    {line}" for line in lines),
    }


def _trained(spec: Spec) -> str:
    """The parameters that get a gradient."""
    if spec.attention.to_encoder:  # of which there is none
        return 'name, parameter in model.named_parameters() if "encoder_decoder_attn" not in name'
    every = "parameter in model.parameters()"
    return f"{every} if parameter.requires_grad" if spec.ffn.activation == "xielu" else every


def _small(spec: Spec) -> dict[str, Any]:
    """What makes a config small enough for a test, and leaves its structure as it is; two ranks can share it."""
    archs = list(spec.sizes().values())
    turns = [turn for sizes in archs for turn in (sizes.window_pattern, sizes.rope_theta) if isinstance(turn, tuple)]
    num_layers = min(max(_SMALL["num_layers"], *map(len, turns)), 8)
    absent = [name for name in ("embedding_dim", "q_latent_dim") if getattr(archs[0], name) is None]
    pairs = {"num_heads": 8, "num_kv_heads": 4} if spec.attention.kind == "differential" else {}
    small = {**_SMALL, **pairs, "num_layers": num_layers}
    return {name: value for name, value in small.items() if name not in absent}


_SMALL = {
    "model_dim": 64, "num_layers": 2, "num_encoder_layers": 2, "num_decoder_layers": 2, "num_heads": 4,
    "num_kv_heads": 2, "num_encoder_heads": 4, "num_decoder_heads": 4, "ffn_inner_dim": 96, "vocab_size": 128,
    "unk_idx": None, "bos_idx": None, "eos_idx": None, "pad_idx": None, "max_seq_len": 64, "sliding_window": 8,
    "embedding_dim": 32, "q_latent_dim": 24, "kv_latent_dim": 16,
}  # fmt: skip

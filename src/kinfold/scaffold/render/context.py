"""What the templates of a family are filled with."""

from __future__ import annotations

import re
from textwrap import shorten
from typing import Any

from kinfold.scaffold.keymap.layouts import Layout
from kinfold.scaffold.keymap.render import key_map_rules
from kinfold.scaffold.naming import arch_function, class_prefix
from kinfold.scaffold.render import parts
from kinfold.scaffold.render.fields import Field, arch_changes, config_fields, field_names, scaling_classes
from kinfold.scaffold.spec.schema import Spec

_PART = re.compile(r"(?<![\w.])([A-Z]\w+)\(")


def family_context(family: str, package: str, spec: Spec) -> dict[str, Any]:
    """The values of the holes in `templates/family`.

    Args:
        family: The name of the family.
        package: The package it becomes a module of.
        spec: The spec.
    """
    composed = {
        "position": parts.rotary(spec),
        "self_attn": parts.attention(spec),
        "norm": parts.norm("config.model_dim"),
        "ffn": parts.feed_forward(spec.ffn),
        "final_proj": parts.final_projection(spec),
    }
    rules = {layout: key_map_rules(spec, layout) for layout in spec.key_maps}
    title = class_prefix(family)
    scalings = scaling_classes(spec)
    archs = [_arch(*arch, spec=spec, title=title) for arch in arch_changes(spec)]
    return {
        "family": family,
        "package": package,
        "title": title,
        "summary": _summary(title, spec),
        "functions": sorted([f"create_{family}_model", f"load_{family}_model", f"{family}_arch", f"{family}_archs"]),
        "parts": {name: _indented(text) for name, text in composed.items()},
        "nn_imports": sorted({*_PART.findall("\n".join(composed.values())), *scalings, *_FRAME_PARTS}),
        "fields": "\n".join(_field(field) for field in config_fields(spec)),
        "checks": "\n".join(_checks(spec)),
        "archs": archs,
        "arch_imports": sorted({name for arch in archs for name in _PART.findall(arch["body"]) if name in scalings}),
        "key_maps": {layout: ",\n    ".join(lines) for layout, lines in rules.items()},
        "key_map_docs": _KEY_MAP_DOCS,
        "key_map_imports": sorted({"KeyMap", *(rule.partition("(")[0] for lines in rules.values() for rule in lines)}),
        "small": ", ".join(_small(spec)),
    }


_FRAME_PARTS = ("DecoderFrontend", "materialize", "without_storage")
_KEY_MAP_DOCS: dict[Layout, str] = {
    "hf": "Hugging Face's names to ours.",
    "gguf": "The names of llama.cpp's GGUF files to ours.",
}


def _summary(title: str, spec: Spec) -> str:
    return f"{title}: {_plain(spec.description).rstrip('.') or 'a decoder-only language model'}."


def _plain(text: str) -> str:
    """A text, which may come out of a checkpoint, as it can stand in a docstring of one line."""
    return shorten(text.replace("\\", "/").replace('"', "'"), 72, placeholder=" ...")


def _indented(text: str) -> str:
    """Source that goes into a hole four columns in; the formatter does the rest."""
    return text.replace("\n", "\n    ")


def _field(field: Field) -> str:
    return f'    {field.name}: {field.type} = {field.default}\n    """{field.doc}"""\n'


def _checks(spec: Spec) -> list[str]:
    names = field_names(spec)
    numbers = [name for name in names if name not in ("rope_scaling", "sliding_window", "tied_embeddings")]
    checks = [
        f"check.positive({', '.join(repr(name) for name in numbers)})",
        'check.divides("num_kv_heads", "num_heads")',
        'check.even("head_dim")',
    ]
    if "sliding_window" in names:
        checks.append('check.positive_or_none("sliding_window")')
    return [f"            {check}" for check in checks]


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


_SMALL = {
    "model_dim": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "ffn_inner_dim": 96, "vocab_size": 128,
    "max_seq_len": 64, "sliding_window": 8,
}  # fmt: skip


def _small(spec: Spec) -> list[str]:
    """The arguments that make a config small enough for a test, and still of the same structure."""
    return [f"{name}={value}" for name, value in _SMALL.items() if name in field_names(spec)]

"""From the facts of a reading to its spec."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from kinfold.scaffold.keymap.render import key_map_faults, key_map_rules
from kinfold.scaffold.reading.facts import Fact
from kinfold.scaffold.reading.kinds import thetas
from kinfold.scaffold.reading.mapping import GATE_LAYOUTS, QKV_LAYOUTS, Storage, map_rules
from kinfold.scaffold.reading.roles import Roles
from kinfold.scaffold.spec.schema import KeyMapSpec, Layout, Spec
from kinfold.scaffold.spec.sizes import Arch, Sizes

_SECTIONS = ("attention", "ffn", "norm", "residual", "position", "embedding", "output")


def build_spec(facts: Mapping[str, Fact], roles: Roles, *, layout: Layout, arch: str, description: str) -> Spec:
    """The spec that facts say; what they do not say stays as the schema has it.

    Args:
        facts: The facts, by their names.
        roles: What the tensors are.
        layout: The layout of their names.
        arch: What the arch is called.
        description: What the checkpoint calls itself.
    """

    def value(name: str, default: Any = None) -> Any:
        return facts[name].value if name in facts else default

    tree, sizes = _sections(facts), _sizes(facts)
    if value("position.kind") == "rotary" and value("rope_theta") is not None:
        sizes["rope_theta"] = thetas(value)
        if sizes["rope_theta"] == 0:  # no layer turns
            tree["position"] = {"kind": "none"}
            sizes = {name: size for name, size in sizes.items() if not name.startswith(("rope_", "rotary_"))}
        elif value("position.scaled_layers") == "full":
            _drop_scaling_of_no_layer(tree, sizes, value)
    spec = msgspec.convert({"description": description, **tree}, Spec)
    spec = msgspec.structs.replace(spec, archs={arch: Arch(**sizes)})
    return _with_key_map(spec, roles, layout, value)


def _sections(facts: Mapping[str, Fact]) -> dict[str, Any]:
    """What facts say of the structure, section by section, without what is so anyway."""
    tree: dict[str, Any] = {section: {} for section in _SECTIONS}
    for name, fact in facts.items():
        section, _, field = name.partition(".")
        if section in tree:
            tree[section][field] = fact.value
    norm, qk_norm = tree["norm"], tree["attention"].get("qk_norm")
    if isinstance(qk_norm, Mapping):
        weight = norm.get("weight", "plain")
        qk_norm = {"weight": "plain" if weight == "none" else weight, **qk_norm}
        tree["attention"]["qk_norm"] = True if qk_norm == _USUAL_QK_NORM else qk_norm
    if norm.get("final") is (norm.get("order") != "post") or norm.get("weight") == "none":
        norm.pop("final", None)
    return tree


def _sizes(facts: Mapping[str, Fact]) -> dict[str, Any]:
    """What facts say of sizes, without those that the family does not have."""
    sizes = {name: fact.value for name, fact in facts.items() if name in Sizes.__struct_fields__}
    if sizes.get("embedding_dim") == sizes.get("model_dim"):
        sizes.pop("embedding_dim", None)
    heads = facts.get("num_kv_heads")
    if heads is not None and heads.value == sizes.get("num_heads") and not heads.confirmed:  # no config key says it
        sizes.pop("num_kv_heads")
    if sizes.get("sliding_window") is None:
        sizes.pop("window_pattern", None)
    return sizes


def _drop_scaling_of_no_layer(tree: dict[str, Any], sizes: dict[str, Any], value: Callable[..., Any]) -> None:
    """Leave out scaling for layers without a window where all have one, and the distinction where none has one."""
    has_window = value("sliding_window") is not None
    if has_window and False in value("window_pattern", (True,)):
        return
    tree["position"].pop("scaled_layers")
    if has_window:
        sizes.pop("rope_scaling", None)


def _with_key_map(spec: Spec, roles: Roles, layout: Layout, value: Callable[..., Any]) -> Spec:
    """The spec with its key map: in a few words where the names are the usual ones, else rule by rule."""
    storage = Storage(
        interleaved=value("rotary_pairs") == "interleaved",
        transposed=value("transposed", False),
        qkv_layout=value("qkv_layout", QKV_LAYOUTS[0]),
        gate_layout=value("gate_layout", GATE_LAYOUTS[0]),
        repeats_embedding=value("repeats_embedding", False),
    )
    rules = tuple(rule.text for rule in map_rules(roles, spec, storage))
    short = KeyMapSpec(
        rotary_pairs=value("rotary_pairs", "halves"),
        repeats_embedding=storage.repeats_embedding,
        drop={**roles.recomputed},
    )
    # Hugging Face's layout is written by any family, from whatever kind of file it was made.
    hf = {} if layout == "hf" else {"hf": KeyMapSpec()}
    usual = msgspec.structs.replace(spec, key_maps={layout: short, **hf})
    if not list(key_map_faults(usual)) and sorted(key_map_rules(usual, layout)) == sorted(rules):
        return usual
    return msgspec.structs.replace(spec, key_maps={layout: KeyMapSpec(rules=rules), **hf})


_USUAL_QK_NORM = {"weight": "plain", "kind": "rms", "over": "head", "bias": False, "after_position": False}

"""From the facts of a reading to its spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from kinfold.scaffold.keymap.render import key_map_faults, key_map_rules
from kinfold.scaffold.reading.kinds import thetas
from kinfold.scaffold.reading.mapping import GATE_LAYOUTS, QKV_LAYOUTS, Storage, map_rules
from kinfold.scaffold.spec.schema import KeyMapSpec, Spec
from kinfold.scaffold.spec.sizes import Arch, Sizes

if TYPE_CHECKING:
    from kinfold.scaffold.reading.read import Reading

_SECTIONS = ("attention", "ffn", "norm", "residual", "position", "embedding", "output")


def build_spec(reading: Reading) -> Spec:
    """The spec that facts say; what they do not say stays as the schema has it."""
    value = reading.value
    tree: dict[str, Any] = {section: {} for section in _SECTIONS}
    sizes: dict[str, Any] = {}
    for name, fact in reading.facts.items():
        section, _, field = name.partition(".")
        if section in tree:
            tree[section][field] = fact.value
        elif name in Sizes.__struct_fields__:
            sizes[name] = fact.value
    norms = tree["attention"].get("qk_norm")
    if isinstance(norms, Mapping):
        weight = tree["norm"].get("weight", "plain")
        norms = {"weight": "plain" if weight == "none" else weight, **norms}
        tree["attention"]["qk_norm"] = True if norms == _USUAL_QK_NORM else norms
    if tree["norm"].get("final") is (tree["norm"].get("order") != "post") or tree["norm"].get("weight") == "none":
        tree["norm"].pop("final", None)
    if value("position.kind") == "rotary" and value("rope_theta") is not None:
        sizes["rope_theta"] = thetas(value)
        if sizes["rope_theta"] == 0:
            tree["position"] = {"kind": "none"}
            sizes = {name: size for name, size in sizes.items() if not name.startswith(("rope_", "rotary_"))}
        elif value("position.scaled_layers") == "full":
            _drop_scaling_of_no_layer(tree, sizes, value)
    if value("embedding_dim") == value("model_dim"):
        sizes.pop("embedding_dim", None)
    heads = reading.facts.get("num_kv_heads")
    if heads is not None and heads.value == value("num_heads") and not heads.confirmed:  # no config key says it
        sizes.pop("num_kv_heads")
    if value("sliding_window") is None:
        sizes.pop("window_pattern", None)
    spec = msgspec.convert({"description": reading.description, **tree}, Spec)
    spec = msgspec.structs.replace(spec, archs={reading.arch: Arch(**sizes)})
    return _with_key_map(spec, reading)


def _drop_scaling_of_no_layer(tree: dict[str, Any], sizes: dict[str, Any], value: Any) -> None:
    """Leave out scaling for layers without a window where all have one, and the distinction where none has one."""
    has_window = value("sliding_window") is not None
    if has_window and False in value("window_pattern", (True,)):
        return
    tree["position"].pop("scaled_layers")
    if has_window:
        sizes.pop("rope_scaling", None)


def _with_key_map(spec: Spec, reading: Reading) -> Spec:
    """The spec with its key map: in a few words where the names are the usual ones, else rule by rule."""
    value = reading.value
    storage = Storage(
        interleaved=value("rotary_pairs") == "interleaved",
        transposed=value("transposed", False),
        qkv_layout=value("qkv_layout", QKV_LAYOUTS[0]),
        gate_layout=value("gate_layout", GATE_LAYOUTS[0]),
        repeats_embedding=value("repeats_embedding", False),
    )
    rules = tuple(rule.text for rule in map_rules(reading.roles, spec, storage))
    short = KeyMapSpec(
        rotary_pairs=value("rotary_pairs", "halves"),
        repeats_embedding=storage.repeats_embedding,
        drop={**reading.roles.recomputed},
    )
    # Hugging Face's layout is written by any family, from whatever kind of file it was made.
    hf = {} if reading.layout == "hf" else {"hf": KeyMapSpec()}
    usual = msgspec.structs.replace(spec, key_maps={reading.layout: short, **hf})
    if not list(key_map_faults(usual)) and sorted(key_map_rules(usual, reading.layout)) == sorted(rules):
        return usual
    return msgspec.structs.replace(spec, key_maps={reading.layout: KeyMapSpec(rules=rules), **hf})


_USUAL_QK_NORM = {"weight": "plain", "kind": "rms", "over": "head", "bias": False, "after_position": False}

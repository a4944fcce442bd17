"""Reading what a config says about rotary positions, in its old and new spellings.

Hugging Face wrote `rope_theta` beside `rope_scaling` up to version 4 and writes `rope_parameters` since;
GGUF has `rope.freq_base` and `rope.scaling.*`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from kinfold.scaffold.spec.facts import ASSUMED, Findings
from kinfold.scaffold.spec.schema import RopeScaling

_KINDS: Mapping[str, str] = {"su": "longrope"}
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "factor": ("factor",),
    "original_max_seq_len": ("original_max_position_embeddings", "original_context_length"),
    "low_freq_factor": ("low_freq_factor",),
    "high_freq_factor": ("high_freq_factor",),
    "beta_fast": ("beta_fast",),
    "beta_slow": ("beta_slow",),
    "attention_factor": ("attention_factor", "attn_factor"),
    "mscale": ("mscale",),
    "mscale_all_dim": ("mscale_all_dim",),
    "truncate": ("truncate",),
    "short_factors": ("short_factor",),
    "long_factors": ("long_factor",),
}
"""Field of a scaling to the keys that say it."""

CONFIG_KEYS = frozenset({"rope_theta", "rope_scaling", "rope_parameters", "original_max_position_embeddings"})
"""The keys of a config.json that are read here; of GGUF, all that begin with `rope.` but the dimension count."""


def note_rope(config: Mapping[str, Any], findings: Findings) -> None:
    """Note `rope_theta` and `rope_scaling`."""
    for key in ("rope_theta", "rope.freq_base"):
        if key in config:
            findings.note("rope_theta", float(config[key]), f"{key} = {config[key]}")
    said = False
    for key in ("rope_parameters", "rope_scaling"):
        values = config.get(key)
        if values is not None and not isinstance(values, Mapping):
            findings.faults.append(f"{key} = {values!r}: a mapping was expected")
        elif values:
            said = _note_scaling(key, dict(values), config, findings) or said
    gguf = {
        key.removeprefix("rope.scaling."): value for key, value in config.items() if key.startswith("rope.scaling.")
    }
    gguf.pop("finetuned", None)
    if gguf:
        said = _note_scaling("rope.scaling", gguf, config, findings) or said
    if "rope_theta" not in findings.facts:
        findings.note("rope_theta", 10000.0, f"{ASSUMED}: the config does not say (Su et al. 2021, section 3.2.2)")


def _note_scaling(key: str, values: dict[str, Any], config: Mapping[str, Any], findings: Findings) -> bool:
    if (theta := values.pop("rope_theta", None)) is not None:
        findings.note("rope_theta", float(theta), f"{key}.rope_theta = {theta}")
    if (partial := values.pop("partial_rotary_factor", 1.0)) != 1.0:
        findings.faults.append(f"{key}.partial_rotary_factor = {partial}: partial rotary positions are not understood")
    kinds = {str(values.pop(name)) for name in ("rope_type", "type") if name in values}
    kind = _KINDS.get(k := kinds.pop() if kinds else "default", k)
    if kinds:
        findings.faults.append(f"{key} names two types: {k} and {kinds.pop()}")
    if kind in ("default", "none"):
        findings.faults += [f"{key}.{name} = {value!r}: not understood" for name, value in values.items() if value]
        return False
    scaling: dict[str, Any] = {"kind": kind}
    for field, names in _FIELDS.items():
        for name in names:
            if (value := values.pop(name, None)) is not None:
                scaling[field] = value
    # Where the scaling does not say what length was trained on first, the model's own length stands for it.
    original = config.get("original_max_position_embeddings") or findings.value("max_seq_len")
    if kind != "linear":
        scaling.setdefault("original_max_seq_len", original)
    # Phi-3 and DeepSeek leave the factor out: it is how much longer the sequences have become.
    if kind in ("yarn", "longrope") and "factor" not in scaling and findings.value("max_seq_len") and original:
        scaling["factor"] = findings.value("max_seq_len") / scaling["original_max_seq_len"]
    findings.faults += [f"{key}.{name} = {value!r}: not understood" for name, value in values.items()]
    try:
        findings.note("rope_scaling", msgspec.convert(scaling, RopeScaling), f"{key}, {kind}")
    except msgspec.ValidationError as error:
        findings.faults.append(f"{key} of the type {kind!r}: {error}")
    return True

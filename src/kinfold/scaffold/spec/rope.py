"""Reading what a config says about rotary positions, in its old and new spellings.

Hugging Face wrote `rope_theta` beside `rope_scaling` up to version 4 and writes `rope_parameters` since;
GGUF has `rope.freq_base` and `rope.scaling.*`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from kinfold.scaffold.spec.facts import ASSUMED, Findings
from kinfold.scaffold.spec.scaling import RopeScaling

_KINDS: Mapping[str, str] = {"su": "longrope"}
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "factor": ("factor",),
    "original_max_seq_len": ("original_max_position_embeddings", "original_context_length"),
    "low_freq_factor": ("low_freq_factor",),
    "high_freq_factor": ("high_freq_factor",),
    "beta_fast": ("beta_fast",),
    "beta_slow": ("beta_slow",),
    "attention_factor": ("attention_factor",),
    "mscale": ("mscale",),
    "mscale_all_dim": ("mscale_all_dim",),
    "truncate": ("truncate",),
    "short_factors": ("short_factor",),
    "long_factors": ("long_factor",),
}
"""Field of a scaling to the keys that say it."""

SCALING_PREFIX = "rope.scaling."
CONFIG_KEYS = frozenset(
    {"rope_theta", "rope.freq_base", "rope_scaling", "rope_parameters", "original_max_position_embeddings"}
)
"""The keys that are read here, besides those of GGUF that begin with `SCALING_PREFIX`."""


def note_rope(config: Mapping[str, Any], findings: Findings) -> None:
    """Note `rope_theta` and `rope_scaling`."""
    for key in ("rope_theta", "rope.freq_base"):
        if config.get(key) is not None:
            _note_theta(key, config[key], findings)
    for key in ("rope_parameters", "rope_scaling"):
        values = config.get(key)
        if values is not None and not isinstance(values, Mapping):
            findings.faults.append(f"{key} = {values!r}: a mapping was expected")
        elif values:
            _note_scaling(key, dict(values), config, findings)
    gguf = {key.removeprefix(SCALING_PREFIX): value for key, value in config.items() if key.startswith(SCALING_PREFIX)}
    gguf.pop("finetuned", None)
    if gguf:
        _note_scaling("rope.scaling", gguf, config, findings)
    if "rope_theta" not in findings.facts:
        findings.note("rope_theta", 10000.0, f"{ASSUMED}: the config does not say (Su et al. 2021, section 3.2.2)")


def _note_theta(key: str, value: Any, findings: Findings) -> None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        findings.note("rope_theta", float(value), f"{key} = {value}")
    else:
        findings.faults.append(f"{key} = {value!r}: a number was expected")


def _note_scaling(key: str, values: dict[str, Any], config: Mapping[str, Any], findings: Findings) -> None:
    if (theta := values.pop("rope_theta", None)) is not None:
        _note_theta(f"{key}.rope_theta", theta, findings)
    if (partial := values.pop("partial_rotary_factor", 1.0)) != 1.0:
        findings.faults.append(f"{key}.partial_rotary_factor = {partial}: partial rotary positions are not understood")
    kinds = {_KINDS.get(kind, kind) for name in ("rope_type", "type") if (kind := str(values.pop(name, "default")))}
    kinds = kinds - {"default", "none"} or {"default"}
    if len(kinds) > 1:
        findings.faults.append(f"{key} names two types: {', '.join(sorted(kinds))}")
        return
    kind = kinds.pop()
    if kind == "default":
        findings.faults += [f"{key}.{name} = {value!r}: not understood" for name, value in values.items() if value]
        return
    scaling = _scaling(kind, values, config, findings)
    findings.faults += [f"{key}.{name} = {value!r}: not understood" for name, value in values.items()]
    try:
        findings.note("rope_scaling", msgspec.convert(scaling, RopeScaling), f"{key}, {kind}")
    except msgspec.ValidationError as error:
        findings.faults.append(f"{key} of the type {kind!r}: {error}")


def _scaling(kind: str, values: dict[str, Any], config: Mapping[str, Any], findings: Findings) -> dict[str, Any]:
    """The fields of a scaling; what is read is taken out of `values`."""
    scaling: dict[str, Any] = {"kind": kind}
    for field, names in _FIELDS.items():
        for name in names:
            if (value := values.pop(name, None)) is not None:
                scaling[field] = value
    max_seq_len = findings.value("max_seq_len")
    if kind != "linear":  # where it is not said what length was trained on first, the model's own stands for it
        original = config.get("original_max_position_embeddings") or max_seq_len
        original = scaling.setdefault("original_max_seq_len", original)
        # Phi-3 and DeepSeek leave the factor out: it is how much longer the sequences have become.
        if kind in _FACTOR_FROM_LENGTHS and isinstance(original, int) and original > 0 and max_seq_len:
            scaling.setdefault("factor", max_seq_len / original)
    return scaling


_FACTOR_FROM_LENGTHS = ("yarn", "longrope")

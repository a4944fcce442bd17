"""Reading what a config says about rotary positions, in its old and new spellings.

Hugging Face wrote `rope_theta` beside `rope_scaling` up to version 4 and writes `rope_parameters` since;
GGUF has `rope.freq_base` and `rope.scaling.*`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import msgspec

from kinfold.scaffold.reading.facts import ASSUMED, Findings
from kinfold.scaffold.spec.scaling import QueryScaling, RopeScaling

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
_THETAS = {
    "rope_theta": ("rope_theta", "rotary_emb_base", "rope.freq_base", "global_rope_theta"),
    "windowed_rope_theta": ("rope_local_base_freq", "local_rope_theta"),
}
_SHARES = ("partial_rotary_factor", "rotary_pct", "rope_pct")
_OF_KINDS = {"full_attention": "rope_theta", "sliding_attention": "windowed_rope_theta"}
CONFIG_KEYS = frozenset(
    {*_THETAS["rope_theta"], *_THETAS["windowed_rope_theta"], *_SHARES, "rope_scaling", "rope_parameters"}
    | {"original_max_position_embeddings"}
)
"""The keys that are read here, besides those of GGUF that begin with `SCALING_PREFIX`."""


def says_rotary(config: Mapping[str, Any]) -> str | None:
    """A key that only a config of rotary positions has."""
    said = (*CONFIG_KEYS - {"original_max_position_embeddings"}, "rope_ratio", "rotary_dim", "rope.dimension_count")
    return next((key for key in sorted(said) if config.get(key) is not None), None)


def note_rope(config: Mapping[str, Any], findings: Findings) -> None:
    """Note `rope_theta`, `rope_scaling` and `rotary_dim`, and what is so of layers with a window alone."""
    for name, keys in _THETAS.items():
        for key in keys:
            if config.get(key) is not None:
                _note_theta(name, key, config[key], findings)
    for key in _SHARES:
        if config.get(key) is not None:
            _note_share(key, config[key], findings)
    for key in ("rope_parameters", "rope_scaling"):
        values = config.get(key)
        if values is not None and values != [] and not isinstance(values, Mapping):
            findings.faults.append(f"{key} = {values!r}: a mapping was expected")
        elif values and set(values) <= {*_OF_KINDS, "chunked_attention"}:
            _note_kinds(key, values, config, findings)
        elif values:
            _note_scaling(key, dict(values), config, findings)
    gguf = {key.removeprefix(SCALING_PREFIX): value for key, value in config.items() if key.startswith(SCALING_PREFIX)}
    gguf.pop("finetuned", None)
    if gguf:
        _note_scaling("rope.scaling", gguf, config, findings)
    if "rope_theta" not in findings.facts:
        findings.note("rope_theta", 10000.0, f"{ASSUMED}: the config does not say (Su et al. 2021, section 3.2.2)")


def _note_kinds(key: str, kinds: Mapping[str, Any], config: Mapping[str, Any], findings: Findings) -> None:
    """Parameters by the kind of layer; a kind that has none does not turn."""
    scaled = set()
    for kind, name in _OF_KINDS.items():
        if kind not in kinds:
            continue
        values = kinds[kind]
        if values is None:
            findings.note(name, 0.0, f"{key}.{kind} = None")
            continue
        if not isinstance(values, Mapping):
            findings.faults.append(f"{key}.{kind} = {values!r}: a mapping was expected")
            continue
        before = findings.facts.get("rope_scaling")
        _note_scaling(f"{key}.{kind}", dict(values), config, findings, theta=name)
        if findings.facts.get("rope_scaling") is not before or str(values.get("rope_type", "default")) != "default":
            scaled.add(kind)
    if scaled == {"sliding_attention"}:
        findings.faults.append(f"{key}: positions are stretched in layers with a window alone, which is not understood")
    elif scaled == {"full_attention"} and "sliding_attention" in kinds:
        findings.note("position.scaled_layers", "full", f"{key}.full_attention")


def _note_theta(name: str, key: str, value: Any, findings: Findings) -> None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        findings.note(name, float(value), f"{key} = {value}")
    else:
        findings.faults.append(f"{key} = {value!r}: a number was expected")


def _note_share(key: str, share: Any, findings: Findings) -> None:
    """Note how many dimensions of a head turn, given their share of all."""
    head_dim = findings.value("head_dim")
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        findings.faults.append(f"{key} = {share!r}: a number above 0 and up to 1 was expected")
    elif head_dim is not None and findings.value("attention.kind") != "latent":  # whose parts shapes say
        findings.note("rotary_dim", int(head_dim * share), f"{key} = {share}, head_dim {head_dim}")


def _note_scaling(
    key: str, values: dict[str, Any], config: Mapping[str, Any], findings: Findings, *, theta: str = "rope_theta"
) -> None:
    if (base := values.pop("rope_theta", None)) is not None:
        _note_theta(theta, f"{key}.rope_theta", base, findings)
    if (share := values.pop("partial_rotary_factor", None)) is not None:
        _note_share(f"{key}.partial_rotary_factor", share, findings)
    _note_query_scaling(key, values, findings)
    values.pop("max_position_embeddings", None)  # which the config says itself
    kinds = {_KINDS.get(kind, kind) for name in ("rope_type", "type") if (kind := str(values.pop(name, "default")))}
    kinds = kinds - {"default", "none", "mrope"} or {"default"}
    values.pop("mrope_section", None)  # with text alone all its sections turn by the same positions
    values.pop("mrope_interleaved", None)
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


def _note_query_scaling(key: str, values: dict[str, Any], findings: Findings) -> None:
    """Queries that grow with their positions, which Ministral 3 says beside the scaling."""
    beta, interval = values.pop("llama_4_scaling_beta", None), values.get("original_max_position_embeddings")
    if beta:
        said = f"{key}.llama_4_scaling_beta = {beta}"
        try:
            scaling = msgspec.convert({"kind": "log", "beta": beta, "interval": interval}, QueryScaling)
            findings.note("query_scaling", scaling, said)
        except msgspec.ValidationError as error:
            findings.faults.append(f"{said}: {error}")


def _scaling(kind: str, values: dict[str, Any], config: Mapping[str, Any], findings: Findings) -> dict[str, Any]:
    """The fields of a scaling; what is read is taken out of `values`."""
    scaling: dict[str, Any] = {"kind": kind}
    known = _fields_of(kind)
    for field, names in _FIELDS.items():
        for name in names:  # what another kind has says nothing here
            if (value := values.pop(name, None)) is not None and (field in known or not known):
                scaling[field] = value
    max_seq_len = findings.value("max_seq_len")
    if "original_max_seq_len" in known:
        # Where it is not said what length was trained on first, the model's own stands for it.
        original = config.get("original_max_position_embeddings") or max_seq_len
        if kind == "dynamic" and max_seq_len:  # which transformers always counts from there
            scaling["original_max_seq_len"] = max_seq_len
        original = scaling.setdefault("original_max_seq_len", original)
        # Phi-3 and DeepSeek leave the factor out: it is how much longer the sequences have become.
        if kind in _FACTOR_FROM_LENGTHS and isinstance(original, int) and original > 0 and max_seq_len:
            scaling.setdefault("factor", max_seq_len / original)
    return scaling


def _fields_of(kind: str) -> frozenset[str]:
    """The fields of a kind of scaling; none where it is not known."""
    kinds = {struct.__struct_config__.tag: struct for struct in get_args(RopeScaling)}
    return frozenset(kinds[kind].__struct_fields__) if kind in kinds else frozenset()


_FACTOR_FROM_LENGTHS = ("yarn", "longrope")

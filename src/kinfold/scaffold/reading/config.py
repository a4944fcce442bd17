"""What the config of a checkpoint says, and what in it is not understood."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kinfold.checkpoint import Checkpoint
from kinfold.scaffold.reading import config_keys as keys
from kinfold.scaffold.reading.facts import Findings

Config = Mapping[str, Any]

_MAPPINGS_READ_ELSEWHERE = frozenset({"rope_scaling", "rope_parameters", "quantization_config", "id2label", "label2id"})


def plain_config(checkpoint: Checkpoint) -> Config:
    """The config without the prefix that GGUF puts before an architecture's own keys, and with mappings flattened."""
    prefix = f"{checkpoint.config.get('general.architecture')}."
    config: dict[str, Any] = {}
    for key, value in checkpoint.config.items():
        if isinstance(value, Mapping) and key not in _MAPPINGS_READ_ELSEWHERE:
            config |= {f"{key}.{inner}": inside for inner, inside in value.items()}
        else:
            config[key.removeprefix(prefix)] = value
    return config


def note_config(config: Config, findings: Findings) -> None:
    """Note every fact that the config spells; one that contradicts an earlier fact becomes a fault."""
    latent = findings.value("attention.kind") == "latent"  # whose head_dim is that of a part of the head
    for spellings, read in ((keys.SPELLINGS, _value), (keys.INVERSE_ROOT, _inverse_root)):
        for name, spelled in spellings.items():
            name = _OF_LATENT.get(name, name) if latent else name
            for key in _first(spelled, config) if name == "dropout_p" else spelled if name else ():
                note_key(name, key, config, findings, read=read)
    for name, (key, fact, power) in keys.SCALED.items():
        if (factor := findings.value(fact)) is not None:
            times = factor**power
            note_key(name, key, config, findings, read=lambda _, value, times=times: _number(value) * times)
    for name, spelled in keys.EITHER_WAY.items():
        for key in spelled:
            note_either_way(name, key, config, findings)
    for key in keys.UNSCALED:
        if config.get(key) is False:
            findings.note("attention_scale", 1.0, f"{key} = False")
    for key in keys.PRE_NORM:
        if isinstance(config.get(key), bool):
            findings.note("norm.order", "pre" if config[key] else "post", f"{key} = {config[key]}")
    for kind, names in (("rms", keys.RMS_NORM), ("layer", keys.LAYER_NORM)):
        if "norm.kind" not in findings.facts and (said := [key for key in names if config.get(key) is not None]):
            findings.note("norm.kind", kind, f"{said[0]} = {config[said[0]]}")


def _first(spelled: Sequence[str], config: Config) -> Sequence[str]:
    """The first of some keys that is there: there may be several dropouts, of which ours is the first."""
    return next(([key] for key in spelled if config.get(key) is not None), [])


_OF_LATENT = {"head_dim": "", "num_kv_heads": "", "attention.qkv_bias": "attention.latent_bias"}
"""What keys say of latent attention, where it is not the same: nothing, or this."""


def note_key(
    name: str, key: str, config: Config, findings: Findings, *, read: Callable[[str, Any], Any] | None = None
) -> None:
    """Note what one key says of one fact, if it is there; a value of the wrong kind is a fault."""
    value = config.get(key)
    if value is None or _is_moot(key, config) or (name == "vocab_size" and value == -1):  # as many as the tokenizer has
        return
    try:
        said = (read or _value)(name, value)
    except ValueError as error:
        findings.faults.append(f"{key} = {value!r}: {error}")
    else:
        findings.note(name, said, f"{key} = {said if isinstance(value, float) and name == 'norm_eps' else value}")


def note_either_way(name: str, key: str, config: Config, findings: Findings) -> None:
    """Ask whether a number divides or multiplies."""
    value = config.get(key)
    if value is None:
        return
    try:
        number = _number(value)
    except ValueError as error:
        findings.faults.append(f"{key} = {value!r}: {error}")
        return
    answers = [{name: scale} for scale in dict.fromkeys((1 / number, number))]
    findings.ask(f"whether {key} divides or multiplies", *answers, why=f"{key} = {value}, which divides in Granite")


def heads_said(config: Config, q_dim: int, evidence: str, findings: Findings) -> None:
    """Note the width of a head by the config: as it says it, or by the number of heads."""
    for key in keys.SPELLINGS["head_dim"]:
        note_key("head_dim", key, config, findings)
    for key in keys.SPELLINGS["num_heads"]:
        heads = config.get(key)
        if "head_dim" not in findings.facts and isinstance(heads, int) and heads > 0 and q_dim % heads == 0:
            findings.note("head_dim", q_dim // heads, f"{evidence}, {key} = {heads}")


def left_over(config: Config, read: frozenset[str]) -> list[str]:
    """A line for every key that may change the computation and that nothing has read.

    Args:
        config: The config.
        read: The keys that are read elsewhere.
    """
    known = {*keys.known_keys(), *read}
    return [
        f"config key {key} = {value!r}: not understood"
        for key, value in config.items()
        if value is not None and key not in known and not _is_harmless(key, value, config)
    ]


def _is_harmless(key: str, value: Any, config: Config) -> bool:
    """Whether a key asks, with this value, for nothing that a dense decoder does not do anyway."""
    parts = {key, key.partition(".")[0], key.rpartition(".")[2]}
    return (
        bool(parts & (keys.NOT_ARCHITECTURE | keys.OF_TRAINING | keys.SAID_BY_SHAPES))
        or key.startswith(keys.NOT_ARCHITECTURE_PREFIXES)
        or key.endswith(keys.NOT_ARCHITECTURE_SUFFIXES)
        or value in keys.NEUTRAL.get(key, keys.NEUTRAL.get(key.rpartition(".")[2], ()))
        or _is_about_experts(key)
        or keys.RESTATED.get(key) in config
    )


def _is_about_experts(key: str) -> bool:
    """Experts show in the tensors; families that may have some keep such keys where they have none."""
    return any(word in key.split("_") for word in ("moe", "expert", "experts", "router", "topk", "routed"))


def _is_moot(key: str, config: Config) -> bool:
    return any(config.get(other) == value for other, value in keys.MOOT.get(key, ()))


def _value(name: str, value: Any) -> Any:
    return _READERS.get(name, _count)(value)


def _inverse_root(name: str, value: Any) -> float:
    return _number(value) ** -0.5


def _count(value: Any) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ValueError("a whole number above 0 was expected")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise ValueError("a number above 0 was expected")
    return float(value)


def _share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError("a number from 0 to below 1 was expected")
    return float(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false was expected")
    return value


def _activation(value: Any) -> str:
    if not isinstance(value, str) or value not in keys.ACTIVATIONS:
        raise ValueError(f"not understood (known: {', '.join(keys.ACTIVATIONS)})")
    return keys.ACTIVATIONS[value]


def _epsilon(value: Any) -> float:
    """A float32 of GGUF metadata as the decimal it was written from: 9.999999747e-06 gives 1e-05."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ValueError("a number between 0 and 1 was expected")
    for digits in range(1, 9):
        short = float(f"{value:.{digits}g}")
        if struct.pack("<f", short) == struct.pack("<f", value):
            return short
    return float(value)


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "norm_eps": _epsilon,
    "ffn.activation": _activation,
    "output.transform_activation": _activation,
    "attention.latent_bias": _flag,
    "ffn.bias": _flag,
    "attention.qkv_bias": _flag,
    "attention.output_bias": _flag,
    "attention.scaled_by_layer": _flag,
    "tied_embeddings": _flag,
    "embedding.scaled": _flag,
    "residual.parallel": _flag,
    "residual.of_norm": _flag,
    "attention_cap": _number,
    "attention_scale": _number,
    "qkv_clip": _number,
    "alibi_max_bias": _number,
    "embedding_scale": _number,
    "residual_scale": _number,
    "logit_scale": _number,
    "logit_cap": _number,
    "dropout_p": _share,
}
"""How the value of a key is read, by the fact it says; all others are counts."""

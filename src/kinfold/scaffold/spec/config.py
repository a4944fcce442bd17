"""What the config of a checkpoint says, and what in it is not understood."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from kinfold.checkpoint import Checkpoint
from kinfold.scaffold.spec.config_keys import (
    ACTIVATIONS,
    NEUTRAL,
    NOT_ARCHITECTURE,
    NOT_ARCHITECTURE_PREFIXES,
    SAID_BY_SHAPES,
    SPELLINGS,
)
from kinfold.scaffold.spec.facts import ASSUMED, Findings
from kinfold.scaffold.spec.rope import CONFIG_KEYS as ROPE_KEYS
from kinfold.scaffold.spec.rope import SCALING_PREFIX

Config = Mapping[str, Any]


def plain_config(checkpoint: Checkpoint) -> Config:
    """The config without the prefix that GGUF puts before an architecture's own keys."""
    prefix = f"{checkpoint.config.get('general.architecture')}."
    return {key.removeprefix(prefix): value for key, value in checkpoint.config.items()}


def note_config(config: Config, findings: Findings) -> None:
    """Note every fact that the config spells; one that contradicts an earlier fact becomes a fault."""
    for name, keys in SPELLINGS.items():
        for key in keys:
            if name != "sliding_window" or window_in_use(config):
                note_key(name, key, config, findings)
    if "ffn.activation" not in findings.facts:
        findings.note("ffn.activation", "silu", f"{ASSUMED}: the config does not say")
    if "norm_eps" not in findings.facts:
        known = ", ".join(SPELLINGS["norm_eps"])
        findings.faults.append(f"norm_eps: the config does not say (known spellings: {known})")


def note_key(name: str, key: str, config: Config, findings: Findings) -> None:
    """Note what one key says of one fact, if it is there; a value of the wrong kind is a fault."""
    value = config.get(key)
    if value is None or (name == "vocab_size" and value == -1):  # with which Meta says: as many as the tokenizer has
        return
    try:
        read = _READERS.get(name, _count)(value)
    except ValueError as error:
        findings.faults.append(f"{key} = {value!r}: {error}")
    else:
        findings.note(name, read, f"{key} = {read if isinstance(value, float) else value}")


def window_in_use(config: Config) -> bool:
    """Whether the layers use the window that a config names; `use_sliding_window` may switch it off."""
    kinds = config.get("layer_types") or ["sliding_attention"]
    return bool(config.get("use_sliding_window", True)) and "sliding_attention" in _as_list(kinds)


def left_over(config: Config) -> list[str]:
    """A fault for every key that may change the computation and that nothing has read."""
    read = {*(key for keys in SPELLINGS.values() for key in keys), *ROPE_KEYS, *NOT_ARCHITECTURE, *SAID_BY_SHAPES}
    return [
        f"config key {key} = {value!r}: not understood"
        for key, value in config.items()
        if value is not None
        and key not in read
        and not key.startswith((*NOT_ARCHITECTURE_PREFIXES, SCALING_PREFIX))
        and not _is_neutral(key, value, config)
    ]


def _is_neutral(key: str, value: Any, config: Config) -> bool:
    """Whether a key, with this value, asks for nothing that a Llama-shaped decoder does not do anyway."""
    if key == "layer_types":
        return set(map(str, _as_list(value))) in ({"full_attention"}, {"sliding_attention"})
    if key in ("use_sliding_window", "max_window_layers"):
        return not window_in_use(config)
    return value in NEUTRAL.get(key, ())


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ValueError("a whole number above 0 was expected")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false was expected")
    return value


def _activation(value: Any) -> str:
    if not isinstance(value, str) or value not in ACTIVATIONS:
        raise ValueError(f"not understood (known: {', '.join(ACTIVATIONS)})")
    return ACTIVATIONS[value]


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
    "ffn.bias": _flag,
    "attention.qkv_bias": _flag,
    "tied_embeddings": _flag,
}
"""How the value of a key is read, by the fact it says; all others are counts."""

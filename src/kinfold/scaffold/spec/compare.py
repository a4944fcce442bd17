"""How two architectures differ, in the words of their specs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import msgspec
from msgspec.structs import asdict

from kinfold.nn.ffn import scaled_inner_dim
from kinfold.scaffold.spec.schema import Spec
from kinfold.scaffold.spec.sizes import OPTIONAL, TOKENS, Arch, Sizes
from kinfold.scaffold.spec.structure import QkNorm

_SECTIONS = ("attention", "ffn", "norm", "residual", "position", "embedding", "output")
_DERIVED = ("ffn_inner_dim_multiplier", "ffn_inner_dim_to_multiple")


@dataclass(frozen=True, slots=True)
class Side:
    """One of two architectures: an arch of a spec.

    Attributes:
        name: What it is called.
        spec: The spec.
        sizes: The sizes of the arch, completed.
    """

    name: str
    spec: Spec
    sizes: Sizes


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is otherwise.

    Attributes:
        kind: `+` for what only the second has, `-` for what only the first has, `~` for what both have otherwise.
        what: The key of the spec, dotted.
        text: The same in words.
    """

    kind: Literal["+", "-", "~"]
    what: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind} {self.text}"


def differences(first: Side, second: Side) -> list[Difference]:
    """What changes on the way from one architecture to the other: structure first, then sizes."""
    a, b = _facts(first), _facts(second)
    found = (_difference(key, a.get(key), b.get(key)) for key in dict.fromkeys([*a, *b]))
    return [difference for difference in found if difference is not None]


def _facts(side: Side) -> dict[str, Any]:
    """Everything that is so of an architecture; what it does not have is left out."""
    spec, sizes = side.spec, side.sizes
    facts: dict[str, Any] = {"model": spec.model}
    for section in _SECTIONS:
        facts |= {f"{section}.{name}": value for name, value in asdict(getattr(spec, section)).items()}
    facts |= {
        "attention.qkv_bias": len(spec.attention.biased) == 3
        or ", ".join(sorted(spec.attention.biased, key="qkv".find)),
        "attention.qk_norm": _norms_in_words(spec.attention.norms),
        "norm.bias": "bias" in spec.norm.leaves,
        "norm.final": spec.norm.closing,
    }
    facts |= {name: getattr(sizes, name) for name in spec.known_sizes() if name not in (*_DERIVED, *TOKENS)}
    facts["ffn_inner_dim"] = scaled_inner_dim(
        sizes.ffn_inner_dim, multiplier=sizes.ffn_inner_dim_multiplier, to_multiple=sizes.ffn_inner_dim_to_multiple
    )
    if spec.attention.kind != "latent" and sizes.rotary_dim == sizes.head_dim:
        facts["rotary_dim"] = None
    absent = {**OPTIONAL, **_USUAL}
    return {
        key: _plain(value)
        for key, value in facts.items()
        if value is not False and value is not None and value != "" and value != absent.get(key, _NOTHING)
    }


_NOTHING = object()

_USUAL = {
    "attention.gate": "none",
    "residual.weights": "none",
    "position.start": 0,
    "position.frequencies": "tensor2tensor",
    "position.scaled_layers": "all",
}
"""What says that there is nothing of the kind."""


def _norms_in_words(norms: QkNorm | None) -> str:
    if norms is None:
        return ""
    over = {"head": "per head", "width": "over all heads together", "each_head": "with weights for each head"}
    kind = {"rms": "RMS", "layer": "layer norms"}[norms.kind]
    weight = {"plain": [], "offset": ["one and the weights multiply"], "none": ["without weights"]}[norms.weight]
    bias, after = ["with a bias"] * norms.bias, ["after the positions"] * norms.after_position
    return f"q/k norms {over[norms.over]} ({', '.join([kind, *weight, *bias, *after])})"


def _difference(key: str, before: Any, after: Any) -> Difference | None:
    if before == after:
        return None
    if after is None:
        return Difference("-", key, _said(key, before))
    if before is None:
        return Difference("+", key, _said(key, after))
    return Difference("~", key, f"{_name(key)}{_value(before)} -> {_value(after)}")


def _said(key: str, value: Any) -> str:
    return _TITLES.get(key, key) if value is True else f"{_name(key)}{_value(value)}"


def _name(key: str) -> str:
    """A key before its value, unless the value says by itself what it is of."""
    return "" if key == "attention.qk_norm" else f"{key} "


def _value(value: Any) -> str:
    return "true" if value is True else "false" if value is False else str(value)


def _titles() -> Iterator[tuple[str, str]]:
    """What switches are called, by their keys."""
    sections = {"": Arch, **{f"{name}.": type(getattr(Spec(), name)) for name in _SECTIONS}}
    for prefix, section in sections.items():
        for field in msgspec.structs.fields(section):
            for meta in getattr(field.type, "__metadata__", ()):
                if meta.title:
                    yield f"{prefix}{field.name}", meta.title


_TITLES: Mapping[str, str] = dict(_titles())


def _plain(value: Any) -> Any:
    """A value as it is said: several in a row that are the same are counted, and parts are said by their fields."""
    if isinstance(value, tuple):
        runs = [(_value(_plain(one)), len(list(run))) for one, run in groupby(value)]
        return ", ".join(f"{one} x {count}" if count > 1 else one for one, count in runs)
    if isinstance(value, msgspec.Struct):
        kind = type(value).__struct_config__.tag
        fields = [f"{name} {part}" for name, part in asdict(value).items() if part is not None]
        return ", ".join([*([str(kind)] if kind else []), *fields])
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else value

"""How two architectures differ, in the words of their specs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from kinfold.nn.ffn import scaled_inner_dim
from kinfold.scaffold.spec.schema import Spec
from kinfold.scaffold.spec.sizes import OPTIONAL, TOKENS, Arch, Sizes, sizes_of

_SECTIONS = ("attention", "ffn", "norm", "position", "embedding")
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
        values = msgspec.structs.asdict(getattr(spec, section))
        facts |= {f"{section}.{name}": value for name, value in values.items()}
    names = [name for name in sizes_of(spec.model, rotary=spec.rotary) if name not in (*_DERIVED, *TOKENS)]
    facts |= {name: _plain(getattr(sizes, name)) for name in names if name != "rope_scaling"}
    facts["ffn_inner_dim"] = scaled_inner_dim(
        sizes.ffn_inner_dim, multiplier=sizes.ffn_inner_dim_multiplier, to_multiple=sizes.ffn_inner_dim_to_multiple
    )
    if spec.rotary and sizes.rope_scaling is not None:
        scaling = msgspec.to_builtins(sizes.rope_scaling)
        facts["rope_scaling"] = ", ".join([scaling.pop("kind"), *_stated(scaling)])
    absent = {**OPTIONAL, "position.start": 0}
    return {key: value for key, value in facts.items() if value is not False and value != absent.get(key, _NOTHING)}


_NOTHING = object()


def _difference(key: str, before: Any, after: Any) -> Difference | None:
    if before == after:
        return None
    if after is None:
        return Difference("-", key, _said(key, before))
    if before is None:
        return Difference("+", key, _said(key, after))
    return Difference("~", key, f"{key} {before} -> {after}")


def _said(key: str, value: Any) -> str:
    return _TITLES.get(key, key) if value is True else f"{key} {value}"


def _titles() -> Iterator[tuple[str, str]]:
    """What switches are called, by their keys."""
    sections = {"": Arch, **{f"{name}.": type(getattr(Spec(), name)) for name in _SECTIONS}}
    for prefix, section in sections.items():
        for field in msgspec.structs.fields(section):
            for meta in getattr(field.type, "__metadata__", ()):
                if meta.title:
                    yield f"{prefix}{field.name}", meta.title


_TITLES: Mapping[str, str] = dict(_titles())


def _stated(values: Mapping[str, Any]) -> Iterator[str]:
    return (f"{name} {value}" for name, value in values.items() if value is not None)


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else value

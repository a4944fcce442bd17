"""The native side of a key map: a family's parameters, which of them turn, and what its config calls their sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import product
from math import prod
from typing import Any

from torch import nn

from kinfold.checkpoint.manifest import Manifest
from kinfold.errors import ConfigError
from kinfold.keymap.rules import Size
from kinfold.loader import CreateModel, model_manifest
from kinfold.nn import LatentAttention, Rotary
from kinfold.scaffold.keymap.inference.groups import Group

_HEADS = -1
"""In place of a dimension: the number of heads of a parameter that turns."""

_Measures = Mapping[tuple[str, int], int]
"""The size of each parameter in each dimension, and the heads of those that turn."""


@dataclass(frozen=True, slots=True)
class Turning:
    """A parameter whose rows rotary positions turn.

    Attributes:
        heads: How many heads its rows are.
        rotary_dim: How many rows of a head turn; None for all.
        start: The first of them.
    """

    heads: int
    rotary_dim: int | None
    start: int = 0


class NativeSide:
    """What a key map leads to; sizes are numbers.

    Attributes:
        manifest: The parameters.
        turning: Those that rotary positions turn.
        config: What gives the sizes that rules name.
    """

    config: Any = None

    def __init__(self, manifest: Manifest, turning: Mapping[str, Turning] | None = None) -> None:
        self.manifest = manifest
        self.turning = turning or {}

    def size(self, name: str, dim: int) -> Size:
        """What the size of a parameter in a dimension is called."""
        return self.manifest[name].shape[dim]

    def heads(self, name: str) -> Size:
        """What the number of heads of a parameter that turns is called."""
        return self.turning[name].heads

    def turns(self, group: Group) -> bool:
        """Whether rotary positions turn the parameters of a group."""
        return group.first_name in self.turning

    def fields_of(self, number: int) -> list[str]:
        """The fields of the config that have this number."""
        return []


class FamilySide(NativeSide):
    """The model of a family; its config's fields say what sizes are called, as products where it has to be.

    Args:
        factory: Creates a model of the family.
        config: The sizes of the arch at hand.
    """

    def __init__(self, factory: CreateModel, config: Any) -> None:
        model = factory(config, device="meta")
        super().__init__(model_manifest(model), dict(_turning(model)))
        self.config = config
        self._factory = factory
        self._measures = _measures(model)

    def create(self) -> nn.Module:
        """A model on the meta device."""
        return self._factory(self.config, device="meta")

    def size(self, name: str, dim: int) -> Size:
        number = self._measures[name, dim]
        factors = [field for field in self._number_fields if (name, dim, field) in self._factors]
        rest, left = divmod(number, prod(getattr(self.config, field) for field in factors))
        if not factors or left:
            return number
        return " * ".join([*([str(rest)] if rest != 1 else []), *factors])

    def heads(self, name: str) -> Size:
        return self.size(name, _HEADS)

    def fields_of(self, number: int) -> list[str]:
        return [field for field in self._number_fields if getattr(self.config, field) == number]

    @cached_property
    def _number_fields(self) -> list[str]:
        values = {field.name: getattr(self.config, field.name) for field in fields(self.config)}
        return [name for name, value in values.items() if isinstance(value, int) and not isinstance(value, bool)]

    @cached_property
    def _factors(self) -> set[tuple[str, int, str]]:
        """Which fields are factors of which sizes: the factory is asked what a model becomes of other values."""
        found = set()
        for field in self._number_fields:
            probe = self._probe(field)
            if probe is not None:
                before, after, times = probe
                found |= {(*key, field) for key, size in before.items() if after.get(key) == size * times}
        return found

    def _probe(self, field: str) -> tuple[_Measures, _Measures, int] | None:
        """A model before and after a field is multiplied; another field is doubled first where that has to be."""
        others = [None, *(other for other in self._number_fields if other != field)]
        for other, times in product(others, (2, 3)):
            base = self.config if other is None else _multiplied(self.config, other, 2)
            before, after = self._build(base), self._build(_multiplied(base, field, times))
            if before is not None and after is not None:
                return before, after, times
        return None

    def _build(self, config: Any) -> _Measures | None:
        try:
            return _measures(self._factory(config, device="meta"))
        except (ConfigError, ValueError):  # sizes that do not go together
            return None


def _multiplied(config: Any, field: str, times: int) -> Any:
    changed = copy(config)
    setattr(changed, field, getattr(config, field) * times)
    return changed


def _measures(model: nn.Module) -> _Measures:
    sizes = {(n, dim): size for n, info in model_manifest(model).items() for dim, size in enumerate(info.shape)}
    return {**sizes, **{(name, _HEADS): turning.heads for name, turning in _turning(model)}}


def _turning(model: nn.Module) -> Iterator[tuple[str, Turning]]:
    for name, module in model.named_modules():
        if isinstance(module, LatentAttention):
            found = _turning_of_latent(module)
        elif isinstance(getattr(module, "position", None), Rotary) and hasattr(module, "head_dim"):
            found = _turning_of_heads(module)
        else:
            continue
        yield from ((f"{name}.{parameter}", turning) for parameter, turning in found)


def _turning_of_heads(attention: Any) -> Iterator[tuple[str, Turning]]:
    head_dim, turning = attention.head_dim, attention.position.dim
    for part in ("q_proj", "k_proj", "q_norm", "k_norm"):
        for leaf, parameter in (getattr(attention, part, None) or nn.Identity()).named_parameters():
            of_each_head = part.endswith("norm") and parameter.dim() == 2  # which has no rows
            if parameter.shape[0] % head_dim == 0 and not of_each_head:
                heads = parameter.shape[0] // head_dim
                yield f"{part}.{leaf}", Turning(heads, None if turning == head_dim else turning)


def _turning_of_latent(attention: LatentAttention) -> Iterator[tuple[str, Turning]]:
    """Queries, of which the last rows of a head turn, and the last rows of what keys come of, which all heads share."""
    part = "q_up_proj" if attention.q_proj is None else "q_proj"
    for leaf, parameter in attention.get_submodule(part).named_parameters():
        heads, start = parameter.shape[0] // attention.head_dim, attention.head_dim - attention.rotary_dim
        yield f"{part}.{leaf}", Turning(heads, attention.rotary_dim, start)
    for leaf, parameter in attention.kv_down_proj.named_parameters():
        yield f"kv_down_proj.{leaf}", Turning(1, attention.rotary_dim, parameter.shape[0] - attention.rotary_dim)

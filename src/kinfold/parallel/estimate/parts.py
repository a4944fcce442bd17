"""The parts of a model, in the order that they compute in: their weights, as ranks share them, and what they use.

Layers that are alike are spread and measured once, so that a model of hundreds of layers costs as much as one of three.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard

from kinfold.memory import collector_paused
from kinfold.parallel.estimate.layout import Workload
from kinfold.parallel.estimate.usage import Usage, measure
from kinfold.parallel.gangs import Gang, pretended_gangs
from kinfold.parallel.layers import layers_of
from kinfold.parallel.loss import spread_logits
from kinfold.parallel.stages import tied_embedding

Shares = Mapping[str, tuple[int, int]]
"""Which one of how many ranks, by the name of their gang."""

Sharder = Callable[..., None]
"""Spreads a model in place: `sharder(model, config, gangs, sequence_parallel=...)`, as families have it."""


@dataclass(frozen=True, slots=True)
class Weight:
    """A parameter.

    Attributes:
        shape: Of the whole.
        spread: The gangs that share it, and by which of its dimensions, in the order in which it is divided.
        trained: Whether it has a gradient.
        cast: Whether autocast casts it.
    """

    shape: tuple[int, ...]
    spread: tuple[tuple[str, int], ...]
    trained: bool
    cast: bool

    def numel(self, shares: Shares) -> int:
        """How many values of it a rank has; divided as `torch.chunk` does, the last ranks have less, or nothing."""
        sizes = list(self.shape)
        for gang, dim in self.spread:
            rank, ranks = shares.get(gang, (0, 1))
            chunk = -(-sizes[dim] // ranks)
            sizes[dim] = max(0, min(chunk, sizes[dim] - rank * chunk))
        return prod(sizes)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A layer, or what stands before or after layers.

    Attributes:
        weights: Its parameters.
        buffers: The bytes of what else it has.
        usage: What it uses while it computes.
        usage_first: What it uses where none like it has computed before: masks and positions are shared.
        layer: Its stack, and of which kind it is in that; None for what is no layer.
    """

    weights: tuple[Weight, ...]
    buffers: int
    usage: Usage
    usage_first: Usage
    layer: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class ModelParts:
    """A model, taken apart.

    Attributes:
        parts: For each stack what comes before it, and its layers; then what comes last.
        output: The bytes of its logits.
        tied: The embedding that logits are computed by; it is among the weights of the first part.
    """

    parts: tuple[Part, ...]
    output: int
    tied: Weight | None


class Blueprint:
    """How to make a model on the meta device, in whole, or with but a few layers of each kind.

    Args:
        create: Makes it: `create(config, device="meta", dtype=...)`.
        config: Its config.
        sharder: Spreads it; None for a model that is made of the parts of `kinfold.nn`.
    """

    def __init__(self, create: Callable[..., nn.Module], config: Any, sharder: Sharder | None = None) -> None:
        self._create = create
        self._config = config
        self._sharder = sharder

    def whole(self, dtype: Any = None) -> nn.Module:
        """All of it."""
        with collector_paused():
            return self._create(self._config, device="meta", dtype=dtype)

    def reduced(self, dtype: Any = None) -> tuple[nn.Module, list[list[int]]]:
        """It with a few layers of each kind, and of which kind the layers of each stack were."""
        model = self.whole(dtype)
        return model, _leave_few_of_each_kind(model)

    def shard(self, model: nn.Module, gangs: Mapping[str, Gang], *, sequence_parallel: bool = False) -> None:
        """Spread it in place.

        Raises:
            ParallelError: It cannot be divided; lists everything.
        """
        from kinfold.parallel.native import native_plan
        from kinfold.parallel.tensor import shard_model

        options = {"sequence_parallel": True} if sequence_parallel else {}
        if self._sharder is None:
            shard_model(model, native_plan(model), gangs, **options)
        else:
            self._sharder(model, self._config, gangs, **options)

    def parts(self, work: Workload, *, tp: int, sequences: int, gathered: bool) -> ModelParts:
        """Take a model apart that is spread over `tp` ranks, as the first of them has it.

        Args:
            work: What it computes.
            tp: Ranks that share each tensor.
            sequences: Of how many sequences at once.
            gathered: Whether FSDP gathers weights.

        Raises:
            ParallelError: It cannot be divided, or not be measured; lists everything.
        """
        model, kinds = self.reduced(work.weights_dtype(gathered=gathered))
        with pretended_gangs(tp=tp) as gangs:
            self.shard(model, gangs, sequence_parallel=work.sequence_parallel and tp > 1)
            if work.trains and work.spread_logits:
                spread_logits(model)
            stacks = list(_containers(model).values())
            measured = measure(model, stacks, work, sequences=sequences, gathered=gathered)
            tensors = _tensors(model, stacks)
        cast = set(map(id, measured.cast))
        parts = [_part(own, usage, cast) for own, usage in zip(tensors, measured.usages, strict=True)]
        embed = tied_embedding(model)
        tied = None if embed is None else _weight(embed.get_parameter("weight"), cast=id(embed.weight) in cast)
        return ModelParts(tuple(_expanded(parts, kinds)), measured.output, tied)


def _leave_few_of_each_kind(model: nn.Module) -> list[list[int]]:
    """Leave those layers that are measured; gives the kind of every layer there was, for each stack."""
    containers = _containers(model)
    used = Counter(part for layers in containers.values() for layer in layers for part in layer.modules())
    kinds = []
    for container, layers in containers.items():
        found: dict[Hashable, int] = {}
        kinds.append([found.setdefault(_likeness(layer, used), len(found)) for layer in layers])
        stack: Any = model.get_submodule(container)
        for number in sorted(set(range(len(layers))).difference(_measured(kinds[-1])), reverse=True):
            del stack[number]
    return kinds


def _measured(kinds: Sequence[int]) -> list[int]:
    """The first two and the last layer of each kind: the first makes what they share, the last lets go of something."""
    return [
        place for place, kind in enumerate(kinds) if kinds[:place].count(kind) < 2 or kind not in kinds[place + 1 :]
    ]


def _containers(model: nn.Module) -> dict[str, list[nn.Module]]:
    """The layers of each stack, by the name of what contains them."""
    found: dict[str, list[nn.Module]] = {}
    for name, layer in layers_of(model):
        found.setdefault(name.rpartition(".")[0], []).append(layer)
    return found


def _likeness(layer: nn.Module, used: Mapping[nn.Module, int]) -> Hashable:
    """What is the same of layers that use the same.

    Fractions, such as what begins at another value, do not matter; parts that layers share do, such as positions.
    """
    tensors = (*layer.named_parameters(), *layer.named_buffers())
    shared = tuple(id(part) for part in layer.modules() if used[part] > 1)
    words = re.sub(r"-?\d+\.\d+(e-?\d+)?", "", str(layer))
    return words, shared, tuple((name, tensor.shape) for name, tensor in tensors)


def _tensors(model: nn.Module, stacks: Sequence[Sequence[nn.Module]]) -> list[list[Tensor]]:
    """The parameters and buffers of each part: of layers their own; the others come before all layers, or last."""
    owned = [[] if layer is None else _all(layer) for stack in stacks for layer in (None, *stack)] + [[]]
    in_layers = {id(tensor) for tensors in owned for tensor in tensors}
    part = 0
    for tensor in _all(model):
        if id(tensor) in in_layers:
            part = -1
        else:
            owned[part].append(tensor)
    return owned


def _all(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _part(tensors: Iterable[Tensor], usage: Usage, cast: Container[int]) -> Part:
    weights = [tensor for tensor in tensors if isinstance(tensor, nn.Parameter)]
    buffers = [tensor for tensor in tensors if not isinstance(tensor, nn.Parameter)]
    found = tuple(_weight(weight, cast=id(weight) in cast) for weight in weights)
    return Part(found, sum(buffer.nbytes for buffer in buffers), usage, usage)


def _weight(parameter: nn.Parameter, *, cast: bool) -> Weight:
    spread = []
    if isinstance(parameter, DTensor):
        names = parameter.device_mesh.mesh_dim_names or ()
        placed = zip(names, parameter.placements, strict=True)
        spread = [(name, placement.dim) for name, placement in placed if isinstance(placement, Shard)]
    fsdp = [("dp", 0)] if parameter.dim() else []  # `fully_shard` divides by the first dimension what is left
    return Weight(tuple(parameter.shape), (*spread, *fsdp), parameter.requires_grad, cast)


def _expanded(parts: Sequence[Part], kinds: Sequence[Sequence[int]]) -> Iterator[Part]:
    """All layers there were, given those that were measured; the others are as the second of their kind."""
    left = iter(parts)
    for stack, numbers in enumerate(kinds):
        yield next(left)
        own = {place: next(left) for place in _measured(numbers)}
        alike: dict[int, list[Part]] = {}
        for place, part in own.items():
            same = alike.setdefault(numbers[place], [])
            first = same[0] if same else part
            own[place] = replace(part, usage_first=first.usage, layer=(stack, numbers[place]))
            same.append(own[place])
        yield from (own.get(place) or alike[kind][1] for place, kind in enumerate(numbers))
    yield from left

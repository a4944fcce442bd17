"""Operations that make one tensor of several, and their inverses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from kinfold.errors import KeyMapError
from kinfold.keymap.ops.base import (
    Index,
    Op,
    Shape,
    Source,
    as_range,
    as_tensor,
    gathered,
    replaced,
    resized,
    size_of,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Concat(Op):
    """Joins tensors along a dimension, in which they have these sizes; with `groups`, in turns (see `Split`)."""

    sizes: Shape
    dim: int = 0
    groups: int = 1

    def apply(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        import torch

        if self.groups == 1:
            return [torch.cat(list(tensors), dim=self.dim)]
        turns = [tensor.unflatten(self.dim, (self.groups, -1)) for tensor in tensors]
        return [torch.cat(turns, dim=self.dim + 1).flatten(self.dim, self.dim + 1)]

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        sizes = tuple(size_of(shape, self.dim) for shape in shapes)
        if sizes != self.sizes:
            raise KeyMapError(f"sizes {sizes} in dimension {self.dim}, not {self.sizes}")
        if len({resized(shape, self.dim, 0) for shape in shapes}) > 1:
            raise KeyMapError(f"{', '.join(map(str, shapes))} differ outside dimension {self.dim}")
        _check_groups(self.sizes, self.groups)
        return [resized(shapes[0], self.dim, sum(sizes))]

    def read(self, output: int, index: Index, sources: Sequence[Source]) -> Tensor:
        parts = []
        positions = as_tensor(index[self.dim])
        turn = sum(self.sizes) // self.groups
        group, place = positions // turn, positions % turn
        for source, size, start in zip(sources, self._turns(), accumulate(self._turns(), initial=0), strict=False):
            wanted = ((place >= start) & (place < start + size)).nonzero().flatten()
            if len(wanted):
                inside = (group * size + place - start)[wanted]
                parts.append((wanted, source.read(replaced(index, self.dim, as_range(inside)))))
        return gathered(parts, self.dim) if parts else sources[0].read(replaced(index, self.dim, range(0)))

    def inverse(self) -> Split:
        return Split(self.sizes, self.dim, self.groups)

    def _turns(self) -> list[int]:
        return [size // self.groups for size in self.sizes]


@dataclass(frozen=True, slots=True)
class Split(Op):
    """Takes a tensor apart along a dimension, into parts of these sizes.

    With `groups` the parts take turns: the dimension is (groups, turn), and each turn has its share of every part.
    Fused projections are laid out so: by heads in GPT-NeoX and Bloom (q, k, v of head 0, q, k, v of head 1, ...), by
    key-value heads in Falcon (all queries of key-value head 0, its key, its value, ...).

    Args:
        sizes: Size of each part in the dimension; each a multiple of `groups`.
        dim: The dimension.
        groups: How many turns there are.
    """

    sizes: Shape
    dim: int = 0
    groups: int = 1

    def apply(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        if self.groups == 1:
            return [part.contiguous() for part in tensors[0].split(self.sizes, dim=self.dim)]
        turns = tensors[0].unflatten(self.dim, (self.groups, -1))
        parts = turns.split([size // self.groups for size in self.sizes], dim=self.dim + 1)
        return [part.flatten(self.dim, self.dim + 1).contiguous() for part in parts]

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        (shape,) = shapes
        if size_of(shape, self.dim) != sum(self.sizes):
            raise KeyMapError(f"{shape} has not {' + '.join(map(str, self.sizes))} in dimension {self.dim}")
        _check_groups(self.sizes, self.groups)
        return [resized(shape, self.dim, size) for size in self.sizes]

    def read(self, output: int, index: Index, sources: Sequence[Source]) -> Tensor:
        size = self.sizes[output] // self.groups
        start = sum(self.sizes[:output]) // self.groups
        positions = as_tensor(index[self.dim])
        inside = positions // size * (sum(self.sizes) // self.groups) + start + positions % size
        return sources[0].read(replaced(index, self.dim, as_range(inside)))

    def inverse(self) -> Concat:
        return Concat(self.sizes, self.dim, self.groups)


@dataclass(frozen=True, slots=True)
class Stack(Op):
    """Puts equal tensors on top of each other, along a new first dimension."""

    count: int

    def apply(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        import torch

        return [torch.stack(list(tensors))]

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        if len(set(shapes)) > 1 or len(shapes) != self.count:
            different = " and ".join(map(str, dict.fromkeys(shapes)))
            raise KeyMapError(f"{self.count} equal shapes were expected, not {len(shapes)} of {different}")
        return [(self.count, *shapes[0])]

    def read(self, output: int, index: Index, sources: Sequence[Source]) -> Tensor:
        import torch

        first, *rest = index
        numbers = as_tensor(first).tolist()
        if not numbers:
            nothing = sources[0].read((range(0),) * len(rest))  # whose dtype and device it has
            return nothing.new_empty((0, *map(len, rest)))
        return torch.stack([sources[number].read(tuple(rest)) for number in numbers])

    def inverse(self) -> Unstack:
        return Unstack(self.count)


@dataclass(frozen=True, slots=True)
class Unstack(Op):
    """Takes a tensor apart along its first dimension."""

    count: int

    def apply(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return list(tensors[0].unbind())

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        (shape,) = shapes
        if size_of(shape, 0) != self.count:
            raise KeyMapError(f"{shape} has not {self.count} in its first dimension")
        return [shape[1:]] * self.count

    def read(self, output: int, index: Index, sources: Sequence[Source]) -> Tensor:
        return sources[0].read((range(output, output + 1), *index)).squeeze(0)

    def inverse(self) -> Stack:
        return Stack(self.count)


def _check_groups(sizes: Shape, groups: int) -> None:
    if any(size % groups for size in sizes):
        raise KeyMapError(f"{groups} groups do not divide {' and '.join(map(str, sizes))}")

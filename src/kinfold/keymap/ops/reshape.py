"""The operation that gives a tensor another shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from kinfold.errors import KeyMapError
from kinfold.keymap.ops.base import Index, Op, Positions, Shape, Source, TensorSource, as_range, as_tensor, whole

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Reshape(Op):
    """The same values in the same order, in another shape.

    Args:
        there: The shape that goes in.
        here: The shape that comes out. In both, one size may be -1 for what is left.
    """

    there: Shape
    here: Shape

    def apply(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [tensor.reshape(self._reshaped(tuple(tensor.shape))) for tensor in tensors]

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        return [self._reshaped(shape) for shape in shapes]

    def read(self, output: int, index: Index, sources: Sequence[Source]) -> Tensor:
        source = sources[output]
        here = self._reshaped(source.shape)
        lengths = [len(positions) for positions in index]
        if 0 in lengths and source.shape:
            return source.read((range(0),) * len(source.shape)).reshape(lengths)
        needed: list[Positions] = []
        sizes: list[int] = []
        chosen: list[Positions] = []
        for ours, theirs in _aligned(here, source.shape):
            positions, places = _needed(index[ours], here[ours], source.shape[theirs])
            needed += positions
            sizes.append(prod(map(len, positions)))
            chosen.append(places)
        part = source.read(tuple(needed)).reshape(sizes)
        return TensorSource(part).read(tuple(chosen)).reshape(lengths)

    def inverse(self) -> Reshape:
        return Reshape(self.here, self.there)

    def _reshaped(self, shape: Shape) -> Shape:
        if _filled(self.there, shape) != shape:
            raise KeyMapError(f"{shape} was expected to be {self.there}")
        here = _filled(self.here, shape)
        if prod(here) != prod(shape):
            raise KeyMapError(f"{shape} cannot be seen as {self.here}")
        return here


def _filled(pattern: Shape, shape: Shape) -> Shape:
    """A shape with what is left of another one's values in place of -1."""
    known = prod(size for size in pattern if size != -1)
    return tuple(prod(shape) // known if size == -1 and known else size for size in pattern)


def _aligned(a: Shape, b: Shape) -> Iterator[tuple[slice, slice]]:
    """The dimensions of two shapes in the smallest groups that have the same number of values."""
    i = j = 0
    while i < len(a) or j < len(b):
        start, (of_a, of_b) = (i, j), (1, 1)
        while of_a != of_b or (i, j) == start:
            if of_a <= of_b and i < len(a):
                of_a *= a[i]
                i += 1
            else:
                of_b *= b[j]
                j += 1
        yield slice(start[0], i), slice(start[1], j)


def _needed(index: Index, here: Shape, there: Shape) -> tuple[list[Positions], Positions]:
    """For a part of a group of dimensions, the positions to read in the other group's, and where it lies in these.

    Args:
        index: The part.
        here: The sizes of the group that the part is of.
        there: The sizes of the group that is read.
    """
    if here == there and len(here) == 1:
        return list(index), range(len(index[0]))
    if index == whole(here):
        return list(whole(there)), range(prod(there))
    flat = as_tensor(range(1))  # positions among all values of the group
    for positions, size in zip(index, here, strict=True):
        flat = (flat[:, None] * size + as_tensor(positions)).flatten()
    places = flat * 0
    needed: list[Positions] = []
    for dim, size in enumerate(there):
        found, place = (flat // prod(there[dim + 1 :]) % size).unique(return_inverse=True)
        needed.append(as_range(found))
        places = places * len(found) + place
    return needed, as_range(places)

"""What every operation has: forwards, on shapes alone, on a part of what comes out, and its inverse."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Union

from kinfold.errors import KeyMapError

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]

Positions = Union[range, "Tensor"]
"""Positions along one dimension: a range with step 1, or a tensor of int64 in any order."""

Index = tuple[Positions, ...]
"""A part of a tensor: the positions along each of its dimensions."""


class Source(Protocol):
    """A tensor of which parts can be read: one in memory, one mapped to a file, or what an operation gives."""

    @property
    def shape(self) -> Shape:
        """Its shape."""
        ...

    def read(self, index: Index) -> Tensor:
        """The part at `index`."""
        ...


@dataclass(frozen=True, slots=True)
class TensorSource:
    """A tensor as a source; of one that is mapped to a file only the pages of the part are read."""

    tensor: Tensor

    @property
    def shape(self) -> Shape:
        return tuple(self.tensor.shape)

    def read(self, index: Index) -> Tensor:
        part = self.tensor
        for dim, positions in enumerate(index):
            if isinstance(positions, range):
                part = part.narrow(dim, positions.start, len(positions))
            else:
                part = part[(slice(None),) * dim + (positions.to(part.device),)]  # index_select lacks some dtypes
        return part


class Op(ABC):
    """An invertible operation from n tensors to m tensors."""

    @abstractmethod
    def apply(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The tensors that come out; none of those that go in is changed."""

    @abstractmethod
    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The shapes that come out, given those that go in.

        Raises:
            KeyMapError: The operation cannot be applied to these shapes.
        """

    @abstractmethod
    def read(self, output: int, index: Index, sources: Sequence[Source]) -> Tensor:
        """A part of one of the tensors that come out, from no more of those that go in than it needs.

        Args:
            output: Which of the tensors that come out.
            index: Which part of it.
            sources: What goes in.
        """

    @abstractmethod
    def inverse(self) -> Op:
        """The operation that takes this one back, bit for bit."""


def whole(shape: Shape) -> Index:
    """The index of all of a tensor."""
    return tuple(range(size) for size in shape)


def as_tensor(positions: Positions) -> Tensor:
    """Positions as a tensor of int64, on the CPU whatever the default device."""
    import torch

    if isinstance(positions, range):
        return torch.arange(positions.start, positions.start + len(positions), device="cpu")
    return positions


def as_range(positions: Tensor) -> Positions:
    """Positions as a range, where they are one: then a part is a view, and nothing is gathered."""
    count = len(positions)
    if count and bool((positions.diff() == 1).all()):
        return range(int(positions[0]), int(positions[0]) + count)
    return positions if count else range(0)


def gathered(parts: Sequence[tuple[Tensor, Tensor]], dim: int) -> Tensor:
    """Tensors that lie at these positions along a dimension, put together; every position is in one of them.

    Only what torch has for every dtype is used: it cannot write to positions of float8.
    """
    import torch

    order = torch.cat([positions for positions, _ in parts]).argsort()
    joined = parts[0][1] if len(parts) == 1 else torch.cat([part for _, part in parts], dim=dim)
    return TensorSource(joined).read(replaced(whole(tuple(joined.shape)), dim, as_range(order)))


def bits(tensor: Tensor) -> Tensor:
    """The bytes of each value: uint8, (values, bytes of one); they tell -0.0 from 0.0, and NaN from NaN."""
    import torch

    flat = tensor.flatten()
    if flat.stride(0) != 1:  # `contiguous` would leave a single value with the stride that it has
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8).view(tensor.numel(), tensor.itemsize)


def replaced(index: Index, dim: int, positions: Positions) -> Index:
    """An index with other positions along one dimension."""
    return (*index[:dim], positions, *index[dim + 1 :])


def size_of(shape: Shape, dim: int) -> int:
    """The size of a dimension.

    Raises:
        KeyMapError: There is no such dimension.
    """
    if not 0 <= dim < len(shape):
        raise KeyMapError(f"{shape} has no dimension {dim}")
    return shape[dim]


def resized(shape: Shape, dim: int, size: int) -> Shape:
    """A shape with another size in one dimension."""
    return (*shape[:dim], size, *shape[dim + 1 :])

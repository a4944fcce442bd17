"""What a rule does to tensors on their way: each operation knows its inverse, so that no rule is written twice."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kinfold.errors import KeyMapError

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]


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
    def inverse(self) -> Op:
        """The operation that takes this one back, bit for bit."""


@dataclass(frozen=True, slots=True)
class Identity(Op):
    """Every tensor as it is."""

    def apply(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return list(tensors)

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        return list(shapes)

    def inverse(self) -> Identity:
        return self


@dataclass(frozen=True, slots=True)
class PermuteRotary(Op):
    """Reorders the rows of a query or key projection between the two layouts of rotary positions.

    In one, neighbouring dimensions of a head turn together (Meta's Llama, llama.cpp); in the other, dimension i
    and dimension i + head_dim / 2 (GPT-NeoX, Hugging Face). Weights are (heads * head_dim, ...), biases
    (heads * head_dim,).

    Args:
        heads: The number of heads.
        to: The layout that comes out.
    """

    heads: int
    to: Literal["halves", "interleaved"] = "halves"

    def apply(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        halves = self.to == "halves"
        return [
            tensor.unflatten(0, (self.heads, -1, 2) if halves else (self.heads, 2, -1)).transpose(1, 2).flatten(0, 2)
            for tensor in tensors
        ]

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        for shape in shapes:
            if not shape or shape[0] % (2 * self.heads):
                raise KeyMapError(f"the rows of {shape} are no multiple of 2 * {self.heads} heads")
        return list(shapes)

    def inverse(self) -> PermuteRotary:
        return PermuteRotary(self.heads, "interleaved" if self.to == "halves" else "halves")


@dataclass(frozen=True, slots=True)
class Transpose(Op):
    """Swaps two dimensions."""

    dim0: int = 0
    dim1: int = 1

    def apply(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [tensor.transpose(self.dim0, self.dim1).contiguous() for tensor in tensors]

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        return [self._swapped(shape) for shape in shapes]

    def inverse(self) -> Transpose:
        return self

    def _swapped(self, shape: Shape) -> Shape:
        if not all(0 <= dim < len(shape) for dim in (self.dim0, self.dim1)):
            raise KeyMapError(f"{shape} has no dimensions {self.dim0} and {self.dim1}")
        sizes = list(shape)
        sizes[self.dim0], sizes[self.dim1] = sizes[self.dim1], sizes[self.dim0]
        return tuple(sizes)


@dataclass(frozen=True, slots=True)
class Concat(Op):
    """Joins tensors along a dimension, in which they have these sizes."""

    sizes: tuple[int, ...]
    dim: int = 0

    def apply(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        import torch

        return [torch.cat(list(tensors), dim=self.dim)]

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        sizes = tuple(_size(shape, self.dim) for shape in shapes)
        if sizes != self.sizes:
            raise KeyMapError(f"sizes {sizes} in dimension {self.dim}, not {self.sizes}")
        if len({_without(shape, self.dim) for shape in shapes}) > 1:
            raise KeyMapError(f"{', '.join(map(str, shapes))} differ outside dimension {self.dim}")
        return [(*shapes[0][: self.dim], sum(sizes), *shapes[0][self.dim + 1 :])]

    def inverse(self) -> Split:
        return Split(self.sizes, self.dim)


@dataclass(frozen=True, slots=True)
class Split(Op):
    """Takes a tensor apart along a dimension, into parts of these sizes."""

    sizes: tuple[int, ...]
    dim: int = 0

    def apply(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [part.contiguous() for part in tensors[0].split(self.sizes, dim=self.dim)]

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        (shape,) = shapes
        if _size(shape, self.dim) != sum(self.sizes):
            raise KeyMapError(f"{shape} has not {' + '.join(map(str, self.sizes))} in dimension {self.dim}")
        return [(*shape[: self.dim], size, *shape[self.dim + 1 :]) for size in self.sizes]

    def inverse(self) -> Concat:
        return Concat(self.sizes, self.dim)


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
        if _size(shape, 0) != self.count:
            raise KeyMapError(f"{shape} has not {self.count} in its first dimension")
        return [shape[1:]] * self.count

    def inverse(self) -> Stack:
        return Stack(self.count)


def _size(shape: Shape, dim: int) -> int:
    if not 0 <= dim < len(shape):
        raise KeyMapError(f"{shape} has no dimension {dim}")
    return shape[dim]


def _without(shape: Shape, dim: int) -> Shape:
    return (*shape[:dim], *shape[dim + 1 :])

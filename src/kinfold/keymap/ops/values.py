"""Operations that change values or add some; where the inverse would not give every bit back, they refuse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kinfold.errors import KeyMapError
from kinfold.keymap.ops.base import (
    Index,
    Op,
    Positions,
    Shape,
    Source,
    as_range,
    as_tensor,
    bits,
    gathered,
    replaced,
    resized,
    size_of,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Pad(Op):
    """Adds zeros at the end of a dimension, from `size` up to `padded`."""

    size: int
    padded: int
    dim: int = 0

    def apply(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [self._padded(tensor) for tensor in tensors]

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        return [_changed(shape, self.dim, self.size, self.padded, self.padded - self.size) for shape in shapes]

    def read(self, output: int, index: Index, sources: Sequence[Source]) -> Tensor:
        positions = as_tensor(index[self.dim])
        inside, beyond = (found.nonzero().flatten() for found in (positions < self.size, positions >= self.size))
        known = sources[output].read(replaced(index, self.dim, as_range(positions[inside])))
        zeros = known.new_zeros(resized(tuple(known.shape), self.dim, len(beyond)))
        return gathered([(inside, known), (beyond, zeros)], self.dim)

    def inverse(self) -> Unpad:
        return Unpad(self.padded, self.size, self.dim)

    def _padded(self, tensor: Tensor) -> Tensor:
        import torch

        zeros = resized(tuple(tensor.shape), self.dim, self.padded - self.size)
        return torch.cat([tensor, tensor.new_zeros(zeros)], dim=self.dim)


@dataclass(frozen=True, slots=True)
class Unpad(Op):
    """Takes away the end of a dimension, from `padded` down to `size`; it has to be zeros, to the bit.

    Of the parts of a tensor, that which has the last position looks at what lies beyond it.
    """

    padded: int
    size: int
    dim: int = 0

    def apply(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        for tensor in tensors:
            self._check(tensor.narrow(self.dim, self.size, self.padded - self.size), tuple(tensor.shape))
        return [tensor.narrow(self.dim, 0, self.size).contiguous() for tensor in tensors]

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        return [_changed(shape, self.dim, self.padded, self.size, self.padded - self.size) for shape in shapes]

    def read(self, output: int, index: Index, sources: Sequence[Source]) -> Tensor:
        source = sources[output]
        if _has(index[self.dim], self.size - 1):
            beyond = source.read(replaced(index, self.dim, range(self.size, self.padded)))
            self._check(beyond, source.shape)
        return source.read(index)

    def inverse(self) -> Pad:
        return Pad(self.size, self.padded, self.dim)

    def _check(self, beyond: Tensor, shape: Shape) -> None:
        if not beyond.is_meta and bits(beyond).any():
            raise KeyMapError(
                f"What lies beyond {self.size} in dimension {self.dim} of {shape} is not zero, and would be lost.",
                hint=f"Keep it: give the model {self.padded} there.",
            )


@dataclass(frozen=True, slots=True)
class Affine(Op):
    """`factor * x + offset`, or with `back` what takes that back, `(x - offset) / factor`, in the dtype of x.

    Floating-point numbers are rounded, so that it is checked of every value that the inverse gives its bits back.
    """

    factor: float = 1.0
    offset: float = 0.0
    back: bool = False

    def apply(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [self._changed(tensor) for tensor in tensors]

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        if not self.factor:
            raise KeyMapError("a factor of 0 cannot be taken back")
        return list(shapes)

    def read(self, output: int, index: Index, sources: Sequence[Source]) -> Tensor:
        return self._changed(sources[output].read(index))

    def inverse(self) -> Affine:
        return Affine(self.factor, self.offset, not self.back)

    def _changed(self, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            raise KeyMapError(f"{tensor.dtype} cannot be multiplied or added to: it is no floating-point dtype.")
        changed = self._compute(tensor)
        if tensor.is_meta:
            return changed
        lost = (bits(tensor) != bits(self.inverse()._compute(changed))).any(-1)
        if lost.any():
            x = tensor.flatten()[lost.nonzero()[0, 0]].item()
            formula = f"({x} - {self.offset}) / {self.factor}" if self.back else f"{self.factor} * {x} + {self.offset}"
            raise KeyMapError(
                f"{formula} cannot be taken back bit for bit in {tensor.dtype}.",
                hint="Let the model compute it: keep the tensor as it is, and give its module the factor or offset.",
            )
        return changed

    def _compute(self, tensor: Tensor) -> Tensor:
        x = tensor.float() if tensor.itemsize == 1 else tensor  # torch does not compute in float8
        return ((x - self.offset) / self.factor if self.back else x * self.factor + self.offset).to(tensor.dtype)


def _has(positions: Positions, position: int) -> bool:
    return position in positions if isinstance(positions, range) else bool((positions == position).any())


def _changed(shape: Shape, dim: int, size: int, to: int, zeros: int) -> Shape:
    if size_of(shape, dim) != size:
        raise KeyMapError(f"{shape} has not {size} in dimension {dim}")
    if zeros < 1:
        raise KeyMapError(f"from {size} to {to} in dimension {dim} there are no zeros to add or take away")
    return resized(shape, dim, to)

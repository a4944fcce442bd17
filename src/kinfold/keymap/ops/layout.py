"""Operations that put the values of one tensor in another order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kinfold.errors import KeyMapError
from kinfold.keymap.ops.base import Index, Op, Shape, Source, as_range, as_tensor, replaced

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Identity(Op):
    """Every tensor as it is."""

    def apply(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return list(tensors)

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        return list(shapes)

    def read(self, output: int, index: Index, sources: Sequence[Source]) -> Tensor:
        return sources[output].read(index)

    def inverse(self) -> Identity:
        return self


@dataclass(frozen=True, slots=True)
class PermuteRotary(Op):
    """Reorders the rows of a query or key projection between the two layouts of rotary positions.

    In one, neighbouring dimensions of a head turn together (Su et al. 2021, section 3.2.2; Meta's Llama, llama.cpp);
    in the other, dimension i and dimension i + rotary_dim / 2 (GPT-NeoX, Hugging Face). Weights are
    (heads * head_dim, ...), biases (heads * head_dim,).

    Args:
        heads: The number of heads.
        to: The layout that comes out.
        rotary_dim: How many dimensions of a head turn; all if None.
        start: The first dimension of a head that turns.
    """

    heads: int
    to: Literal["halves", "interleaved"] = "halves"
    rotary_dim: int | None = None
    start: int = 0

    def apply(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [self._permuted(tensor) for tensor in tensors]

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        for shape in shapes:
            if not shape or shape[0] % self.heads or self._turning(shape[0]) % 2:
                raise KeyMapError(f"the rows of {shape} are no multiple of 2 * {self.heads} heads")
            if self.start + self._turning(shape[0]) > shape[0] // self.heads:
                turning = f"{self._turning(shape[0])} from {self.start} on"
                raise KeyMapError(
                    f"a head of {shape} has {shape[0] // self.heads} rows, of which {turning} should turn"
                )
        return list(shapes)

    def read(self, output: int, index: Index, sources: Sequence[Source]) -> Tensor:
        import torch

        rows = sources[output].shape[0]
        turning = self._turning(rows)
        head, row = (part(as_tensor(index[0]), rows // self.heads) for part in (torch.floor_divide, torch.remainder))
        place = row - self.start
        half = turning // 2
        width, count = (half, 2) if self.to == "halves" else (2, half)
        turned = place % width * count + place // width
        inside = (place >= 0) & (place < turning)
        positions = head * (rows // self.heads) + torch.where(inside, self.start + turned, row)
        return sources[output].read(replaced(index, 0, as_range(positions)))

    def inverse(self) -> PermuteRotary:
        to: Literal["halves", "interleaved"] = "interleaved" if self.to == "halves" else "halves"
        return PermuteRotary(self.heads, to, self.rotary_dim, self.start)

    def _turning(self, rows: int) -> int:
        return rows // self.heads - self.start if self.rotary_dim is None else self.rotary_dim

    def _permuted(self, tensor: Tensor) -> Tensor:
        import torch

        turning, pairs = self._turning(tensor.shape[0]), (-1, 2) if self.to == "halves" else (2, -1)
        heads = tensor.unflatten(0, (self.heads, -1))  # (heads, head_dim, ...)
        before, turned, after = heads.split([self.start, turning, heads.shape[1] - self.start - turning], dim=1)
        turned = turned.unflatten(1, pairs).transpose(1, 2).flatten(1, 2)
        return torch.cat([before, turned, after], dim=1).flatten(0, 1)


@dataclass(frozen=True, slots=True)
class Transpose(Op):
    """Swaps two dimensions."""

    dim0: int = 0
    dim1: int = 1

    def apply(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [tensor.transpose(self.dim0, self.dim1).contiguous() for tensor in tensors]

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        for shape in shapes:
            if not all(0 <= dim < len(shape) for dim in (self.dim0, self.dim1)):
                raise KeyMapError(f"{shape} has no dimensions {self.dim0} and {self.dim1}")
        return [tuple(shape[self._other(dim)] for dim in range(len(shape))) for shape in shapes]

    def read(self, output: int, index: Index, sources: Sequence[Source]) -> Tensor:
        swapped = tuple(index[self._other(dim)] for dim in range(len(index)))
        return sources[output].read(swapped).transpose(self.dim0, self.dim1)

    def inverse(self) -> Transpose:
        return self

    def _other(self, dim: int) -> int:
        return {self.dim0: self.dim1, self.dim1: self.dim0}.get(dim, dim)

"""Several operations as one, from n tensors to m."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kinfold.keymap.ops.base import Index, Op, Shape, Source

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Node:
    """One operation in a composite, and the numbers of the values that it takes and gives."""

    op: Op
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Composite(Op):
    """Operations one after the other, each on what goes in or came out of earlier ones.

    Args:
        nodes: The operations, in an order in which they can be done.
        inputs: The numbers of the values that go in.
        outputs: The numbers of the values that come out. Every value is made once and used once.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def apply(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        values = dict(zip(self.inputs, tensors, strict=True))
        for node in self.nodes:
            made = node.op.apply([values.pop(number) for number in node.inputs])
            values.update(zip(node.outputs, made, strict=True))
        return [values[number] for number in self.outputs]

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        values = self._shapes(shapes)
        return [values[number] for number in self.outputs]

    def read(self, output: int, index: Index, sources: Sequence[Source]) -> Tensor:
        shapes = self._shapes([source.shape for source in sources])
        values: dict[int, Source] = dict(zip(self.inputs, sources, strict=True))
        for node in self.nodes:
            taken = [values[number] for number in node.inputs]
            values.update((number, _Made(node.op, n, taken, shapes[number])) for n, number in enumerate(node.outputs))
        return values[self.outputs[output]].read(index)

    def inverse(self) -> Composite:
        nodes = tuple(Node(node.op.inverse(), node.outputs, node.inputs) for node in reversed(self.nodes))
        return Composite(nodes, self.outputs, self.inputs)

    def _shapes(self, shapes: Sequence[Shape]) -> dict[int, Shape]:
        """The shape of every value."""
        values = dict(zip(self.inputs, shapes, strict=True))
        for node in self.nodes:
            made = node.op.shapes([values[number] for number in node.inputs])
            values.update(zip(node.outputs, made, strict=True))
        return values


@dataclass(frozen=True, slots=True)
class _Made:
    """What an operation gives, as a source of the next."""

    op: Op
    output: int
    taken: Sequence[Source]
    shape: Shape

    def read(self, index: Index) -> Tensor:
        return self.op.read(self.output, index, self.taken)

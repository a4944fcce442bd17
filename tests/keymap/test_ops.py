"""Every operation is taken back by its inverse, bit for bit, and touches nothing that it is given."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kinfold.checkpoint.manifest import ITEMSIZES
from kinfold.errors import KeyMapError
from kinfold.keymap.ops import (
    Affine,
    Composite,
    Concat,
    Identity,
    Index,
    Node,
    Op,
    Pad,
    PermuteRotary,
    Reshape,
    Shape,
    Split,
    Stack,
    TensorSource,
    Transpose,
    Unpad,
    Unstack,
    whole,
)
from kinfold.keymap.ops.base import bits as ops_bits
from kinfold.keymap.ops.base import size_of

SIZES = st.integers(1, 4)
DTYPES = [getattr(torch, name) for name in ITEMSIZES]
OpWithShapes = tuple[Op, list[Shape]]


@st.composite
def plain_ops(draw: st.DrawFn) -> OpWithShapes:
    """An operation that only moves values, and shapes that it takes."""
    rows, columns, count, groups = draw(SIZES), draw(st.integers(0, 4)), draw(SIZES), draw(SIZES)
    sizes = tuple(groups * size for size in draw(st.lists(SIZES, min_size=1, max_size=3)))
    dim = draw(st.integers(0, 1))

    def part(size: int) -> Shape:
        return (size, columns) if dim == 0 else (rows, size)

    start, after = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    rest = draw(st.sampled_from([(), (columns,)]))
    to: Literal["halves", "interleaved"] = draw(st.sampled_from(("halves", "interleaved")))
    makers: list[Callable[[], OpWithShapes]] = [
        lambda: (Identity(), [(rows, columns)]),
        lambda: (PermuteRotary(count, to), [(count * 2 * rows, *rest)]),
        lambda: (PermuteRotary(count, to, 2 * rows, start), [(count * (start + 2 * rows + after), *rest)]),
        lambda: (PermuteRotary(count, to, None, start), [(count * (start + 2 * rows), *rest)]),
        lambda: (Transpose(), [(rows, columns)]),
        lambda: (Transpose(0, 2), [(rows, columns, count)]),
        lambda: (Identity(), [()]),
        lambda: (Reshape((rows, 1, columns), (rows, columns)), [(rows, 1, columns)]),
        lambda: (Reshape((rows, -1), (1, -1, count)), [(rows, columns * count)]),
        lambda: (Reshape((rows, count, -1), (1, rows * count, -1, 1)), [(rows, count, columns)]),
        lambda: (Reshape((rows * 2, count * 3), (rows, 2 * count, 3)), [(rows * 2, count * 3)]),
        lambda: (Reshape((1,), ()), [(1,)]),
        lambda: (Concat(sizes, dim, groups), [part(size) for size in sizes]),
        lambda: (Split(sizes, dim, groups), [part(sum(sizes))]),
        lambda: (Stack(count), [(rows, columns)] * count),
        lambda: (Stack(count), [()] * count),
        lambda: (Unstack(count), [(count, rows)]),
        lambda: (Unstack(count), [(count,)]),
        lambda: (Pad(rows, rows + count), [(rows, columns)]),
        lambda: (Pad(groups, groups + count, 1), [(rows, groups)]),
    ]
    return draw(st.sampled_from(makers))()


@st.composite
def composites(draw: st.DrawFn) -> OpWithShapes:
    """Operations one after the other, on a few tensors of random shapes."""
    shapes: list[Shape] = [tuple(draw(st.lists(SIZES, min_size=1, max_size=3))) for _ in range(draw(SIZES))]
    inputs, values = list(shapes), list(range(len(shapes)))
    nodes: list[Node] = []
    fresh = len(shapes)
    for _ in range(draw(st.integers(0, 5))):
        place = draw(st.integers(0, len(values) - 1))
        shape, taken = shapes[place], [place]
        same = [n for n, other in enumerate(shapes) if other == shape]
        rows = size_of(shape, 0)
        size = draw(st.integers(1, rows))
        ops: list[Op] = [Reshape(shape, (-1,)), Pad(rows, rows + 2), Unstack(rows)]
        ops += [Split((size, rows - size))] if size < rows else []
        ops += [Transpose()] if len(shape) > 1 else []
        ops += [PermuteRotary(rows // 2)] if rows % 2 == 0 else []
        ops += [Stack(len(same)), Concat((rows,) * len(same))]
        op = draw(st.sampled_from([op for op in ops if len(shape) > 1 or not isinstance(op, Unstack)]))
        if isinstance(op, Stack | Concat):
            taken = same
        made = op.shapes([shapes[n] for n in taken])
        nodes.append(Node(op, tuple(values[n] for n in taken), tuple(range(fresh, fresh + len(made)))))
        values = [v for n, v in enumerate(values) if n not in taken] + list(range(fresh, fresh + len(made)))
        shapes = [s for n, s in enumerate(shapes) if n not in taken] + made
        fresh += len(made)
    order = draw(st.permutations(values))
    return Composite(tuple(nodes), tuple(range(len(inputs))), tuple(order)), inputs


OPS = st.one_of(plain_ops(), composites())


def bits(tensor: Tensor) -> Tensor:
    """What is compared: NaN and -0.0 too."""
    return tensor.flatten().clone(memory_format=torch.contiguous_format).view(torch.uint8)


def test_a_single_value_may_have_any_stride() -> None:
    value = torch.arange(4, dtype=torch.int16)[::2][1:]
    assert value.is_contiguous()
    assert ops_bits(value).tolist() == [[2, 0]]


def same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(bits(a), bits(b))


def random_bits(shapes: list[Shape], seed: int, dtype: torch.dtype) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    most = 2 if dtype == torch.bool else 256
    sizes = [(prod(shape) * dtype.itemsize,) for shape in shapes]
    drawn = [torch.randint(0, most, size, generator=random, dtype=torch.uint8) for size in sizes]
    return [values.view(dtype).view(shape) for values, shape in zip(drawn, shapes, strict=True)]


@given(OPS, st.integers(0, 2**32 - 1), st.sampled_from(DTYPES))
@settings(deadline=None)
def test_inverse_and_shapes(case: OpWithShapes, seed: int, dtype: torch.dtype) -> None:
    op, shapes = case
    tensors = random_bits(shapes, seed, dtype)
    before = [tensor.clone() for tensor in tensors]
    there = op.apply(tensors)
    assert [tuple(tensor.shape) for tensor in there] == op.shapes(shapes)
    assert all(tensor.is_contiguous() for tensor in there)
    back = op.inverse().apply(there)
    assert [tuple(tensor.shape) for tensor in back] == shapes == op.inverse().shapes(op.shapes(shapes))
    assert all(map(same, back, before))
    assert all(map(same, tensors, before))
    assert op.inverse().inverse() == op
    assert all(map(same, op.apply(back), there))


def draw_index(data: st.DataObject, shape: Shape) -> Index:
    """A part of a tensor: along each dimension a range, or positions in any order; either may be empty."""
    index: list[range | Tensor] = []
    for size in shape:
        start = data.draw(st.integers(0, size))
        some = st.lists(st.integers(0, max(size - 1, 0)), max_size=size)
        listed = some.map(lambda positions: torch.tensor(positions, dtype=torch.int64))
        index.append(data.draw(st.one_of(st.integers(start, size).map(partial(range, start)), listed)))
    return tuple(index)


@given(OPS, st.integers(0, 2**32 - 1), st.sampled_from(DTYPES), st.data())
@settings(deadline=None, max_examples=200)
def test_a_part_is_what_the_whole_has_there(
    case: OpWithShapes, seed: int, dtype: torch.dtype, data: st.DataObject
) -> None:
    forward, shapes = case
    inputs = random_bits(shapes, seed, dtype)
    for op, tensors in ((forward, inputs), (forward.inverse(), forward.apply(inputs))):
        made = op.apply(tensors)
        output = data.draw(st.integers(0, len(made) - 1))
        index = draw_index(data, tuple(made[output].shape))
        part = op.read(output, index, [TensorSource(tensor) for tensor in tensors])
        assert same(part, TensorSource(made[output]).read(index))


@given(OPS, st.data())
@settings(deadline=None)
def test_operations_work_without_values(case: OpWithShapes, data: st.DataObject) -> None:
    forward, shapes = case
    with torch.device("meta"):
        for op in (forward, forward.inverse()):
            made = op.apply([torch.empty(shape) for shape in shapes])
            assert [tuple(tensor.shape) for tensor in made] == op.shapes(shapes)
            output = data.draw(st.integers(0, len(made) - 1))
            with torch.device("cpu"):
                index = draw_index(data, tuple(made[output].shape))
            part = op.read(output, index, [TensorSource(torch.empty(shape)) for shape in shapes])
            assert part.is_meta
            assert tuple(part.shape) == tuple(map(len, index))
            shapes = op.shapes(shapes)


class Counting(TensorSource):
    """A source that counts the values that are read."""

    count = 0

    def read(self, index: Index) -> Tensor:
        part = super().read(index)
        Counting.count += part.numel()
        return part


@pytest.mark.parametrize(
    ("op", "shapes"),
    [
        (Split((16, 8, 8), groups=4), [(32, 6)]),
        (Concat((8, 8)), [(8, 6), (8, 6)]),
        (Stack(4), [(8, 6)] * 4),
        (PermuteRotary(4), [(16, 6)]),
        (Transpose(), [(6, 16)]),
        (Reshape((8, 1, 6), (8, 6)), [(8, 1, 6)]),
        (Reshape((4, 2, 6), (8, 6)), [(4, 2, 6)]),
        (Reshape((8, 6), (4, 2, 6)), [(8, 6)]),
        (Reshape((8, 6), (4, 2, 3, 2)), [(8, 6)]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_more_is_read_than_a_part_needs(op: Op, shapes: list[Shape]) -> None:
    tensors = [torch.randn(shape) for shape in shapes]
    (rows, *rest) = op.shapes(shapes)[0]
    index = (range(rows // 4, rows // 2), *whole(tuple(rest)))
    Counting.count = 0
    op.read(0, index, [Counting(tensor) for tensor in tensors])
    assert Counting.count == op.apply(tensors)[0].numel() // 4


@given(st.lists(st.floats(width=32), min_size=1), st.sampled_from([0.5, 3.0, -1.0]), st.sampled_from([0.0, 1.0, -0.3]))
def test_numbers_are_changed_only_where_that_can_be_taken_back(
    values: list[float], factor: float, offset: float
) -> None:
    tensor = torch.tensor(values)
    op = Affine(factor, offset)
    try:
        (there,) = op.apply([tensor])
    except KeyMapError as error:
        assert "cannot be taken back bit for bit" in str(error)  # noqa: PT017
        return
    assert same(op.inverse().apply([there])[0], tensor)


def test_a_norm_that_is_stored_minus_one() -> None:
    stored = torch.tensor([0.5, -0.25, 0.0], dtype=torch.bfloat16)
    (ours,) = Affine(offset=1.0).apply([stored])
    assert ours.tolist() == [1.5, 0.75, 1.0]
    assert torch.equal(Affine(offset=1.0).inverse().apply([ours])[0], stored)
    with pytest.raises(
        KeyMapError, match=r"1\.0 \* 9.*e-10 \+ 1\.0 cannot be taken back bit for bit in torch\.bfloat16"
    ):
        Affine(offset=1.0).apply([torch.tensor([0.5, 1e-9], dtype=torch.bfloat16)])


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype.is_floating_point])
def test_any_floating_dtype_can_be_scaled(dtype: torch.dtype) -> None:
    stored = torch.tensor([0.5, 1.0, 2.0]).to(dtype)
    (ours,) = Affine(factor=2.0).apply([stored])
    assert ours.dtype == dtype
    assert ours.float().tolist() == [1.0, 2.0, 4.0]
    assert same(Affine(factor=2.0).inverse().apply([ours])[0], stored)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_whole_numbers_are_not_scaled(dtype: torch.dtype) -> None:
    with pytest.raises(KeyMapError, match=f"{dtype} cannot be multiplied or added to"):
        Affine(factor=2.0).apply([torch.ones(3, dtype=dtype)])


@pytest.mark.parametrize("lost", [2.0, -0.0, float("nan")])
def test_padding_that_holds_something_is_not_thrown_away(lost: float) -> None:
    tensor = torch.tensor([[1.0], [lost], [0.0]])
    assert same(Unpad(3, 2).apply([tensor])[0], tensor[:2])
    with pytest.raises(KeyMapError, match="beyond 1 in dimension 0"):
        Unpad(3, 1).apply([tensor])


def test_the_part_beside_padding_looks_at_it() -> None:
    tensor = torch.tensor([[1.0, 1.0], [2.0, 2.0], [0.0, 3.0]])
    source, op = [TensorSource(tensor)], Unpad(3, 2)
    assert op.read(0, (range(0, 1), range(0, 2)), source).tolist() == [[1.0, 1.0]]
    assert op.read(0, (range(1, 2), range(0, 1)), source).tolist() == [[2.0]]  # another's columns are not its own
    with pytest.raises(KeyMapError, match="beyond 2 in dimension 0"):
        op.read(0, (torch.tensor([1, 0]), range(0, 2)), source)


@given(heads=st.integers(1, 5), half=st.integers(1, 5), columns=st.integers(1, 4))
def test_permute_rotary_is_the_formula_of_the_converters(heads: int, half: int, columns: int) -> None:
    dim1, dim2 = heads * half * 2, columns
    w = torch.randn(dim1, dim2)
    # transformers, convert_llama_weights_to_hf.py, `permute`
    expected = w.view(heads, dim1 // heads // 2, 2, dim2).transpose(1, 2).reshape(dim1, dim2)
    assert torch.equal(PermuteRotary(heads).apply([w])[0], expected)
    # llama.cpp, convert_hf_to_gguf.py, `LlamaModel.permute`, which goes the other way
    back = expected.reshape(heads, 2, dim1 // heads // 2, dim2).swapaxes(1, 2).reshape(dim1, dim2)
    assert torch.equal(PermuteRotary(heads).inverse().apply([expected])[0], back)


def test_permute_rotary_puts_the_first_of_each_pair_first() -> None:
    bias = torch.tensor([0, 1, 2, 3, 10, 11, 12, 13])  # two heads with two pairs each
    assert PermuteRotary(2).apply([bias])[0].tolist() == [0, 2, 1, 3, 10, 12, 11, 13]


@pytest.mark.parametrize(
    ("op", "shapes"),
    [
        (PermuteRotary(4), [(20, 3)]),
        (PermuteRotary(1), [()]),
        (PermuteRotary(2, rotary_dim=4), [(6, 3)]),
        (PermuteRotary(2, start=4), [(6, 3)]),
        (Reshape((2, 3), (3, 2)), [(3, 2)]),
        (Reshape((2, -1), (4, -1)), [(2, 3)]),
        (Split((3, 3), groups=2), [(6, 3)]),
        (Pad(3, 4), [(4, 3)]),
        (Pad(3, 3), [(3, 3)]),
        (Unpad(3, 4), [(3, 3)]),
        (Affine(factor=0.0), [(3,)]),
        (Transpose(), [(3,)]),
        (Transpose(-1, 0), [(3, 4)]),
        (Concat((2, 3)), [(2, 4), (2, 4)]),
        (Concat((2, 3)), [(2, 4), (3, 5)]),
        (Concat((2, 3)), [(2, 4)]),
        (Concat((2, 3), dim=-1), [(4, 2), (4, 3)]),
        (Split((2, 3)), [(6, 4)]),
        (Split((2, 3)), [()]),
        (Split((2, 3), dim=1), [(5,)]),
        (Stack(2), [(3,), (4,)]),
        (Stack(2), [(3,)]),
        (Unstack(3), [(2, 5)]),
        (Unstack(1), [()]),
    ],
)
def test_shapes_that_do_not_fit_are_refused(op: Op, shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(KeyMapError):
        op.shapes(shapes)


def test_many_shapes_that_differ_are_named_once_each() -> None:
    with pytest.raises(KeyMapError) as error:
        Stack(256).shapes([(2, 3)] * 255 + [(3, 2)])
    assert str(error.value) == "256 equal shapes were expected, not 256 of (2, 3) and (3, 2)"

"""Every operation is taken back by its inverse, bit for bit, and touches nothing that it is given."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

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
from kinfold.keymap.ops.base import size_of

SIZES = st.integers(1, 4)
OpWithShapes = tuple[Op, list[Shape]]


@st.composite
def plain_ops(draw: st.DrawFn) -> OpWithShapes:
    """An operation that only moves values, and shapes that it takes."""
    rows, columns, count, groups = draw(SIZES), draw(SIZES), draw(SIZES), draw(SIZES)
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
        lambda: (Reshape((rows, 1, columns), (rows, columns)), [(rows, 1, columns)]),
        lambda: (Reshape((rows, -1), (1, -1, count)), [(rows, columns * count)]),
        lambda: (Concat(sizes, dim, groups), [part(size) for size in sizes]),
        lambda: (Split(sizes, dim, groups), [part(sum(sizes))]),
        lambda: (Stack(count), [(rows, columns)] * count),
        lambda: (Unstack(count), [(count, rows)]),
        lambda: (Pad(rows, rows + count), [(rows, columns)]),
        lambda: (Pad(columns, columns + count, 1), [(rows, columns)]),
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
    return tensor.contiguous().view(torch.int32)


def random_bits(shapes: list[Shape], seed: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randint(-(2**31), 2**31, shape, generator=random).int().view(torch.float32) for shape in shapes]


@given(OPS, st.integers(0, 2**32 - 1))
def test_inverse_and_shapes(case: OpWithShapes, seed: int) -> None:
    op, shapes = case
    tensors = random_bits(shapes, seed)
    before = [tensor.clone() for tensor in tensors]
    there = op.apply(tensors)
    assert [tuple(tensor.shape) for tensor in there] == op.shapes(shapes)
    assert all(tensor.is_contiguous() for tensor in there)
    back = op.inverse().apply(there)
    assert [tuple(tensor.shape) for tensor in back] == shapes == op.inverse().shapes(op.shapes(shapes))
    assert all(torch.equal(bits(a), bits(b)) for a, b in zip(back, before, strict=True))
    assert all(torch.equal(bits(a), bits(b)) for a, b in zip(tensors, before, strict=True))
    assert op.inverse().inverse() == op
    assert all(torch.equal(bits(a), bits(b)) for a, b in zip(op.apply(back), there, strict=True))


@given(OPS, st.integers(0, 2**32 - 1), st.data())
def test_a_part_is_what_the_whole_has_there(case: OpWithShapes, seed: int, data: st.DataObject) -> None:
    forward, shapes = case
    inputs = random_bits(shapes, seed)
    for op, tensors in ((forward, inputs), (forward.inverse(), forward.apply(inputs))):
        made = op.apply(tensors)
        output = data.draw(st.integers(0, len(made) - 1))
        index: list[range | Tensor] = []
        for size in made[output].shape:
            start = data.draw(st.integers(0, size - 1))
            some = st.lists(st.integers(0, size - 1), min_size=1, max_size=size)
            positions = st.one_of(st.integers(start + 1, size).map(partial(range, start)), some.map(torch.tensor))
            index.append(data.draw(positions))
        part = op.read(output, tuple(index), [TensorSource(tensor) for tensor in tensors])
        assert torch.equal(bits(part), bits(TensorSource(made[output]).read(tuple(index))))


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
    assert torch.equal(bits(op.inverse().apply([there])[0]), bits(tensor))


def test_a_norm_that_is_stored_minus_one() -> None:
    stored = torch.tensor([0.5, -0.25, 0.0], dtype=torch.bfloat16)
    (ours,) = Affine(offset=1.0).apply([stored])
    assert ours.tolist() == [1.5, 0.75, 1.0]
    assert torch.equal(Affine(offset=1.0).inverse().apply([ours])[0], stored)
    with pytest.raises(
        KeyMapError, match=r"1\.0 \* 9.*e-10 \+ 1\.0 cannot be taken back bit for bit in torch\.bfloat16"
    ):
        Affine(offset=1.0).apply([torch.tensor([0.5, 1e-9], dtype=torch.bfloat16)])


def test_padding_that_holds_something_is_not_thrown_away() -> None:
    tensor = torch.tensor([[1.0], [2.0], [0.0]])
    assert Unpad(3, 2).apply([tensor])[0].tolist() == [[1.0], [2.0]]
    with pytest.raises(KeyMapError, match="beyond 1 in dimension 0"):
        Unpad(3, 1).apply([tensor])


def test_fused_projections_are_laid_out_as_their_models_have_them() -> None:
    heads, head_dim = 4, 2
    q, k, v = (torch.randn(heads * head_dim, 5) for _ in range(3))
    split = Split((8, 8, 8), groups=heads)
    # transformers, modeling_gpt_neox.py: qkv.view(heads, 3 * head_dim), then chunks of the last dimension
    fused = torch.cat([t.view(heads, head_dim, 5) for t in (q, k, v)], dim=1).reshape(-1, 5)
    assert all(torch.equal(a, b) for a, b in zip(split.apply([fused]), (q, k, v), strict=True))
    # transformers, modeling_falcon.py, new_decoder_architecture: (kv_heads, heads / kv_heads + 2, head_dim)
    kv_heads = 2
    k, v = k[: kv_heads * head_dim], v[: kv_heads * head_dim]
    rows = [t.view(kv_heads, -1, head_dim, 5) for t in (q, k, v)]
    grouped = torch.cat(rows, dim=1).reshape(-1, 5)
    assert all(torch.equal(a, b) for a, b in zip(Split((8, 4, 4), groups=2).apply([grouped]), (q, k, v), strict=True))


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

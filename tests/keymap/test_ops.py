"""Every operation is taken back by its inverse, bit for bit, and touches nothing that it is given."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kinfold.errors import KeyMapError
from kinfold.keymap.ops import Concat, Identity, Op, PermuteRotary, Split, Stack, Transpose, Unstack

SIZES = st.integers(1, 4)


@st.composite
def ops_with_shapes(draw: st.DrawFn) -> tuple[Op, list[tuple[int, ...]]]:
    """An operation, and shapes that it takes."""
    rows, columns, count = draw(SIZES), draw(SIZES), draw(SIZES)
    sizes = tuple(draw(st.lists(SIZES, min_size=1, max_size=3)))
    dim = draw(st.integers(0, 1))

    def part(size: int) -> tuple[int, ...]:
        return (size, columns) if dim == 0 else (rows, size)

    heads, rest = draw(SIZES), draw(st.sampled_from([(), (columns,)]))
    makers: list[Callable[[], tuple[Op, list[tuple[int, ...]]]]] = [
        lambda: (Identity(), [(rows, columns)]),
        lambda: (PermuteRotary(heads, draw(st.sampled_from(["halves", "interleaved"]))), [(heads * 2 * rows, *rest)]),
        lambda: (Transpose(), [(rows, columns)]),
        lambda: (Transpose(0, 2), [(rows, columns, count)]),
        lambda: (Concat(sizes, dim), [part(size) for size in sizes]),
        lambda: (Split(sizes, dim), [part(sum(sizes))]),
        lambda: (Stack(count), [(rows, columns)] * count),
        lambda: (Unstack(count), [(count, rows)]),
    ]
    return draw(st.sampled_from(makers))()


def bits(tensor: Tensor) -> Tensor:
    """What is compared: NaN and -0.0 too."""
    return tensor.contiguous().view(torch.int32)


@given(ops_with_shapes(), st.integers(0, 2**32 - 1))
def test_inverse_and_shapes(case: tuple[Op, list[tuple[int, ...]]], seed: int) -> None:
    op, shapes = case
    random = torch.Generator().manual_seed(seed)
    tensors = [torch.randint(-(2**31), 2**31, shape, generator=random).int().view(torch.float32) for shape in shapes]
    before = [tensor.clone() for tensor in tensors]
    there = op.apply(tensors)
    assert [tuple(tensor.shape) for tensor in there] == op.shapes(shapes)
    assert all(tensor.is_contiguous() for tensor in there)
    back = op.inverse().apply(there)
    assert [tuple(tensor.shape) for tensor in back] == shapes == op.inverse().shapes(op.shapes(shapes))
    assert all(torch.equal(bits(a), bits(b)) for a, b in zip(back, before, strict=True))
    assert all(torch.equal(bits(a), bits(b)) for a, b in zip(tensors, before, strict=True))
    assert op.inverse().inverse() == op


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

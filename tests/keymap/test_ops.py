"""Every operation is taken back by its inverse, bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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
        lambda: (Concat(sizes, dim), [part(size) for size in sizes]),
        lambda: (Split(sizes, dim), [part(sum(sizes))]),
        lambda: (Stack(count), [(rows, columns)] * count),
        lambda: (Unstack(count), [(count, rows)]),
    ]
    return draw(st.sampled_from(makers))()


@given(ops_with_shapes())
def test_inverse_and_shapes(case: tuple[Op, list[tuple[int, ...]]]) -> None:
    op, shapes = case
    tensors = [torch.randn(shape) for shape in shapes]
    before = [tensor.clone() for tensor in tensors]
    there = op.apply(tensors)
    assert [tuple(tensor.shape) for tensor in there] == op.shapes(shapes)
    back = op.inverse().apply(there)
    assert all(torch.equal(a, b) for a, b in zip(back, before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))
    assert op.inverse().inverse() == op


def test_permute_rotary_is_the_formula_of_transformers() -> None:
    heads, weight = 3, torch.randn(3 * 8, 5)
    # convert_llama_weights_to_hf.py, `permute`
    expected = weight.view(heads, 4, 2, 5).transpose(1, 2).reshape(24, 5)
    assert torch.equal(PermuteRotary(heads).apply([weight])[0], expected)


@pytest.mark.parametrize(
    ("op", "shapes"),
    [
        (PermuteRotary(4), [(20, 3)]),
        (PermuteRotary(1), [()]),
        (Transpose(), [(3,)]),
        (Concat((2, 3)), [(2, 4), (2, 4)]),
        (Concat((2, 3)), [(2, 4), (3, 5)]),
        (Split((2, 3)), [(6, 4)]),
        (Split((2, 3), dim=1), [(5,)]),
        (Stack(2), [(3,), (4,)]),
        (Stack(2), [(3,)]),
        (Unstack(3), [(2, 5)]),
    ],
)
def test_shapes_that_do_not_fit_are_refused(op: Op, shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(KeyMapError):
        op.shapes(shapes)

"""Random key maps with tensors that they take, for properties that hold of all of them."""

from __future__ import annotations

from math import prod

import torch
from hypothesis import strategies as st
from torch import Tensor

from kinfold.keymap import (
    KeyMap,
    Rule,
    chain,
    concat,
    offset,
    pad,
    permute_rotary,
    rename,
    reshape,
    scale,
    split,
    stack,
    tie,
    transpose,
    unpad,
    unstack,
)

SIZES = st.integers(1, 4)


@st.composite
def maps_with_tensors(draw: st.DrawFn) -> tuple[KeyMap, dict[str, Tensor]]:
    """A few random rules, and in any order the tensors that they take in a few layers."""
    layers = draw(SIZES)
    rules: list[Rule] = []
    shapes: dict[str, tuple[int, ...]] = {}
    filled: dict[str, int] = {}  # those with zeros, and where they begin
    kinds = ["rename", "permute_rotary", "transpose", "split", "concat", "stack", "unstack", "tie", "reshape", "chain"]
    kinds += ["experts", "gates", "turns", "pad", "unpad", "scale", "offset"]
    for number, kind in enumerate(draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=6))):
        old, new = f"h.{{layer}}.w{number}", f"layers.{{layer}}.x{number}"
        rows, columns = draw(SIZES), draw(SIZES)
        sizes, dim = draw(st.lists(SIZES, min_size=1, max_size=3)), draw(st.integers(0, 1))
        parts = [(size, columns) if dim == 0 else (rows, size) for size in sizes]
        whole = (sum(sizes), columns) if dim == 0 else (rows, sum(sizes))
        count = draw(st.integers(1, 12))
        made, taken = {
            "rename": (rename(old, new), {"": (rows, columns)}),
            "permute_rotary": (permute_rotary(old, new, heads=rows), {"": (rows * 2 * columns, columns)}),
            "transpose": (transpose(old, new), {"": (rows, columns)}),
            "split": (
                split(old, into=[f"{new}.{n}" for n in range(len(sizes))], sizes=sizes, dim=dim),
                {"": whole},
            ),
            "concat": (
                concat([f"{old}.{n}" for n in range(len(sizes))], into=new, sizes=sizes, dim=dim),
                {f".{n}": part for n, part in enumerate(parts)},
            ),
            "stack": (
                stack(f"{old}.{{expert}}.b", new, over="expert"),
                {f".{n}.b": (rows, columns) for n in range(count)},
            ),
            "unstack": (unstack(old, f"{new}.{{e}}", over="e", count=count), {"": (count, rows, columns)}),
            "tie": (rename(old, new), {"": (rows,), ".copy": (rows,)}),
            "reshape": (reshape(old, new, there=(rows, 1, -1), here=(rows, -1)), {"": (rows, 1, columns)}),
            "chain": (
                chain(
                    transpose(old, "qkv.{layer}"),
                    split("qkv.{layer}", into=[f"{new}.{n}" for n in range(len(sizes))], sizes=sizes),
                ),
                {"": (columns, sum(sizes))},
            ),
            "experts": (
                chain(
                    transpose(f"{old}.{{e}}.a", "a.{layer}.{e}"),
                    concat(("a.{layer}.{e}", f"{old}.{{e}}.b"), into="ab.{layer}.{e}", sizes=(rows, columns)),
                    stack("ab.{layer}.{e}", new, over="e"),
                ),
                {f".{n}.a": (3, rows) for n in range(count)} | {f".{n}.b": (columns, 3) for n in range(count)},
            ),
            "turns": (
                split(
                    old,
                    into=[f"{new}.{n}" for n in range(len(sizes))],
                    sizes=[rows * size for size in sizes],
                    groups=rows,
                ),
                {"": (rows * sum(sizes), columns)},
            ),
            "pad": (pad(old, new, size=rows, padded=rows + count), {"": (rows, columns)}),
            "unpad": (unpad(old, new, padded=rows + count, size=rows), {"": (rows + count, columns)}),
            "scale": (scale(old, new, by=2.0), {"": (rows, columns)}),
            "offset": (offset(old, new, by=1.0), {"": (rows,)}),
            "gates": (
                chain(
                    split(old, into=("g.{layer}", "u.{layer}"), sizes=(rows, columns), dim=1),
                    unstack("g.{layer}", f"{new}.{{e}}.g", over="e", count=count),
                    unstack("u.{layer}", f"{new}.{{e}}.u", over="e", count=count),
                ),
                {"": (count, rows + columns, 2)},
            ),
        }[kind]
        rules.append(made)
        if kind == "tie":
            rules.append(tie(f"{old}.copy", to=old))
        for layer in range(layers):
            shapes |= {f"h.{layer}.w{number}{suffix}": shape for suffix, shape in taken.items()}
            filled |= {f"h.{layer}.w{number}": rows for _ in range(kind == "unpad")}
    tensors = {name: numbered(shapes[name]) for name in draw(st.permutations(list(shapes)))}
    for name in shapes:
        if name.endswith(".copy"):
            tensors[name] = tensors[name.removesuffix(".copy")].clone()
    for name, rows in filled.items():
        tensors[name][rows:] = 0
    return KeyMap(*rules), tensors


def numbered(shape: tuple[int, ...]) -> Tensor:
    """Different whole numbers: float32, of a shape."""
    return torch.randperm(prod(shape)).float().view(shape) + 1

"""Plans: what is loaded can be exported and what is exported can be loaded, bit for bit."""

from __future__ import annotations

import pytest
import torch
from example import CONFIG, RULES, manifests
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kinfold import CheckpointConverter
from kinfold.converter import state_dict_manifest
from kinfold.errors import KeyMapError
from kinfold.keymap import (
    KeyMap,
    Plan,
    Rule,
    certify,
    chain,
    concat,
    drop,
    permute_rotary,
    rename,
    reshape,
    split,
    stack,
    tie,
    transpose,
    unstack,
)

SIZES = st.integers(1, 4)


@st.composite
def maps_with_tensors(draw: st.DrawFn) -> tuple[KeyMap, dict[str, Tensor]]:
    """A few random rules, and in any order the tensors that they take in a few layers."""
    layers = draw(SIZES)
    rules: list[Rule] = []
    shapes: dict[str, tuple[int, ...]] = {}
    kinds = ["rename", "permute_rotary", "transpose", "split", "concat", "stack", "unstack", "tie", "reshape", "chain"]
    kinds += ["experts", "gates"]
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
    tensors = {name: torch.randn(shapes[name]) for name in draw(st.permutations(list(shapes)))}
    for name in shapes:
        if name.endswith(".copy"):
            tensors[name] = tensors[name.removesuffix(".copy")].clone()
    return KeyMap(*rules), tensors


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@given(maps_with_tensors())
@settings(deadline=None)
def test_loading_and_exporting_are_inverses(case: tuple[KeyMap, dict[str, Tensor]]) -> None:
    key_map, tensors = case
    converter = CheckpointConverter(foreign=key_map)
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    native = converter.load(tensors, None, layout="foreign")
    again = {name: tensor.clone() for name, tensor in native.items()}
    foreign = converter.export(native, None, layout="foreign")
    assert same(foreign, before)
    assert same(converter.load(foreign, None, layout="foreign"), again)
    assert same(tensors, before)  # what is given stays as it was
    assert same(native, again)


@given(maps_with_tensors())
@settings(deadline=None)
def test_the_manifests_foretell_the_tensors(case: tuple[KeyMap, dict[str, Tensor]]) -> None:
    key_map, tensors = case
    bound = key_map.bind()
    source = state_dict_manifest(tensors)
    target = bound.target_manifest(source)
    assert state_dict_manifest(dict(certify(bound, source, target).plan.load(tensors.__getitem__))) == target
    assert bound.source_manifest(target) == source
    assert bound.target_manifest(bound.source_manifest(target)) == target


def plan_and_tensors() -> tuple[Plan, dict[str, Tensor]]:
    source, target = manifests()
    tensors = {name: torch.randn(info.shape) for name, info in source.items()}
    tensors["head.weight"] = tensors["tok.weight"].clone()
    return certify(KeyMap(*RULES).bind(CONFIG), source, target).plan, tensors


def test_what_was_dropped_is_not_exported_and_what_is_tied_is() -> None:
    plan, tensors = plan_and_tensors()
    native = dict(plan.load(tensors.__getitem__))
    back = dict(plan.export(native.__getitem__))
    assert same(back, {name: tensor for name, tensor in tensors.items() if "inv_freq" not in name})
    assert torch.equal(native["decoder.1.experts"][10], tensors["layers.1.experts.10.w2.weight"])


def test_a_copy_that_differs_is_refused_before_anything_is_loaded() -> None:
    plan, tensors = plan_and_tensors()
    tensors["head.weight"][3, 4] += 1
    with pytest.raises(KeyMapError, match=r"head\.weight should repeat tok\.weight, but differs from it"):
        next(plan.load(tensors.__getitem__))


def test_tensors_are_read_when_they_are_needed() -> None:
    plan, tensors = plan_and_tensors()
    read: list[str] = []

    def get(name: str) -> Tensor:
        read.append(name)
        return tensors[name]

    loading = plan.load(get)
    assert read == []
    assert next(loading)[0] == "embed.weight"
    assert set(read) == {"head.weight", "tok.weight"}
    assert [next(loading)[0] for _ in range(2)] == ["final.weight", "decoder.0.q.weight"]
    assert read[-2:] == ["out.weight", "layers.0.q.weight"]


def test_a_map_that_only_drops_loads_nothing() -> None:
    certificate = certify(KeyMap(drop("a", reason="not needed")).bind(), state_dict_manifest({"a": torch.zeros(1)}), {})
    assert certificate.holds
    assert dict(certificate.plan.load(lambda name: pytest.fail(f"{name} was read"))) == {}

"""From pairings to rules: what is written for each way in which tensors go together, and that it does what it says."""

from __future__ import annotations

import pytest
import torch
from scaffold.keymap.sides import llama_side

from kinfold.checkpoint import TensorInfo
from kinfold.keymap import KeyMap, certify
from kinfold.scaffold.keymap.inference.groups import Group, group_tensors
from kinfold.scaffold.keymap.inference.relations import Relation
from kinfold.scaffold.keymap.native import NativeSide
from kinfold.scaffold.keymap.numbered import merge_numbered
from kinfold.scaffold.keymap.pairing import Pairing
from kinfold.scaffold.keymap.rules import hole_names, rule_of

E, F, D = 4, 6, 5
"""Experts, inner width, width: all different, so that no two dimensions can be confused."""


def groups(**shapes: tuple[int, ...]) -> dict[str, Group]:
    """Groups of two layers; an `_e` in a name stands for the number of an expert."""
    found = {}
    for name, shape in shapes.items():
        numbers = range(E) if "_e" in name else [0]
        tensors = {
            f"m.layers.{layer}.{name.replace('_e', f'.experts.{expert}.w')}": TensorInfo(shape, "float32", "float32")
            for layer in range(2)
            for expert in numbers
        }
        (found[name],) = group_tensors(tensors)
    return found


CASES = {
    "same": ({"a": (F, D)}, {"x": (F, D)}, Relation("same"), 0, 'rename("m.layers.{layer}.a", "m.layers.{layer}.x")'),
    "transposed": (
        {"a": (D, F)},
        {"x": (F, D)},
        Relation("transpose"),
        0,
        'transpose("m.layers.{layer}.a", "m.layers.{layer}.x")',
    ),
    "reshaped": (
        {"a": (D, 1, F)},
        {"x": (D, F)},
        Relation("reshape"),
        0,
        f'reshape("m.layers.{{layer}}.a", "m.layers.{{layer}}.x", there=({D}, 1, {F}), here=({D}, {F}))',
    ),
    "stacked": (
        {"a_e": (F, D)},
        {"x": (E, F, D)},
        Relation("same", 2),
        0,
        'stack("m.layers.{layer}.a.experts.{expert}.w", "m.layers.{layer}.x", over="expert")',
    ),
    "stacked and transposed": (
        {"a_e": (D, F)},
        {"x": (E, F, D)},
        Relation("transpose", 2),
        0,
        'chain(stack("m.layers.{layer}.a.experts.{expert}.w", "a.{layer}", over="expert"), '
        'transpose("a.{layer}", "m.layers.{layer}.x", dim0=1, dim1=2))',
    ),
    "taken apart": (
        {"a": (E, F, D)},
        {"x_e": (F, D)},
        Relation("same", -2),
        0,
        f'unstack("m.layers.{{layer}}.a", "m.layers.{{layer}}.x.experts.{{expert}}.w", over="expert", count={E})',
    ),
    "split": (
        {"a": (F + D, 3)},
        {"x": (F, 3), "y": (D, 3)},
        Relation("same"),
        0,
        f'split("m.layers.{{layer}}.a", into=("m.layers.{{layer}}.x", "m.layers.{{layer}}.y"), sizes=({F}, {D}))',
    ),
    "joined": (
        {"a": (F, 3), "b": (D, 3)},
        {"x": (F + D, 3)},
        Relation("same"),
        0,
        f'concat(("m.layers.{{layer}}.a", "m.layers.{{layer}}.b"), into="m.layers.{{layer}}.x", sizes=({F}, {D}))',
    ),
    "transposed and split": ({"a": (3, F + D)}, {"x": (F, 3), "y": (D, 3)}, Relation("transpose"), 0, None),
    "joined and transposed": ({"a": (F, 3), "b": (D, 3)}, {"x": (3, F + D)}, Relation("transpose"), 0, None),
    "stacked and joined": ({"a_e": (F, 3), "b_e": (D, 3)}, {"x": (E, F + D, 3)}, Relation("same", 2), 1, None),
    "split and taken apart": ({"a": (E, F + D, 3)}, {"x_e": (F, 3), "y_e": (D, 3)}, Relation("same", -2), 1, None),
    "stacked, joined, transposed": (
        {"a_e": (F, 3), "b_e": (D, 3)},
        {"x": (E, 3, F + D)},
        Relation("transpose", 2),
        1,
        None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_way_to_go_together(case: str) -> None:
    there, here, relation, dim, text = CASES[case]
    sources, targets = groups(**there), groups(**here)
    native = NativeSide({g.name(place): info for g in targets.values() for place, info in g.tensors.items()})
    rule = rule_of(Pairing(tuple(sources.values()), tuple(targets.values()), relation, dim), native)
    if text is not None:
        assert rule.text == text
    source = {g.name(place): info for g in sources.values() for place, info in g.tensors.items()}
    certificate = certify(KeyMap(rule).bind(), source, native.manifest)
    assert certificate.faults == ()
    tensors = {name: torch.randn(info.shape) for name, info in source.items()}
    loaded = dict(certificate.plan.load(tensors.__getitem__))
    assert {name: tuple(tensor.shape) for name, tensor in loaded.items()} == {
        n: i.shape for n, i in native.manifest.items()
    }
    exported = dict(certificate.plan.export(loaded.__getitem__))
    assert all(torch.equal(exported[name], tensors[name]) for name in tensors)


def test_only_what_turns_is_permuted() -> None:
    native = llama_side()
    (q, k, v, fused) = (
        group
        for name in ("q_proj", "k_proj", "v_proj", "qkv")
        for group in group_tensors(
            {
                f"decoder.layers.{layer}.self_attn.{name}.weight": TensorInfo(
                    {"q_proj": (64, 64), "qkv": (128, 64)}.get(name, (32, 64)), "float32", "float32"
                )
                for layer in range(3)
            }
        )
    )
    rule = rule_of(Pairing((fused,), (q, k, v), Relation("same")), native, "interleaved")
    prefix = "decoder.layers.{layer}.self_attn"
    assert rule.text == (
        f'chain(split("{prefix}.qkv.weight", into=("a.{{layer}}", "b.{{layer}}", "{prefix}.v_proj.weight"), '
        'sizes=("num_heads * head_dim", "num_kv_heads * head_dim", "num_kv_heads * head_dim")), '
        f'permute_rotary("a.{{layer}}", "{prefix}.q_proj.weight", heads="num_heads"), '
        f'permute_rotary("b.{{layer}}", "{prefix}.k_proj.weight", heads="num_kv_heads"))'
    )


@pytest.mark.parametrize(
    ("lists", "names"),
    [
        (["decoder.layers."], ["layer"]),
        (["layers.", "layers.{}.experts."], ["layer", "expert"]),
        (["stages.", "stages.{}.layers.", "stages.{}.layers.{}.layers."], ["stage", "layer", "layer2"]),
        (["h."], ["h"]),
        (["1."], ["index"]),
    ],
)
def test_holes_are_called_after_their_lists(lists: list[str], names: list[str]) -> None:
    assert hole_names(lists) == names


def test_rules_that_differ_in_one_number_are_one() -> None:
    shape = TensorInfo((3, 4), "float32", "float32")
    pairings = [
        Pairing((Group((f"a.{n}.w",), {(): shape}),), (Group((f"b.layers.{n}.v",), {(): shape}),), Relation("same"))
        for n in (1, 3)
    ]
    apart = Pairing((Group(("a.2.w",), {(): shape}),), (Group(("b.layers.7.v",), {(): shape}),), Relation("same"))
    merged = merge_numbered([*pairings, apart])
    native = NativeSide({f"b.layers.{n}.v": shape for n in (1, 3, 7)})
    assert [rule_of(pairing, native).text for pairing in merged] == [
        'rename("a.{layer}.w", "b.layers.{layer}.v")',
        'rename("a.2.w", "b.layers.7.v")',
    ]
    assert set(merged[0].targets[0].tensors) == {(1,), (3,)}

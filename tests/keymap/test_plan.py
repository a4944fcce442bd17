"""Plans: what is loaded can be exported and what is exported can be loaded, bit for bit."""

from __future__ import annotations

import pytest
import torch
from example import CONFIG, RULES, manifests
from hypothesis import given, settings
from random_maps import maps_with_tensors
from torch import Tensor

from kinfold import CheckpointConverter, convert_model_state_dict
from kinfold.checkpoint.manifest import state_dict_manifest
from kinfold.errors import KeyMapError
from kinfold.keymap import KeyMap, Plan, certify, drop, rename, tie


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


def test_copies_are_compared_bit_by_bit_and_all_that_differ_are_named() -> None:
    key_map = KeyMap(rename("h.{n}.a", "l.{n}.a"), tie("h.{n}.b", to="h.{n}.a"))
    tensors = {f"h.{n}.{name}": torch.tensor([1.0, float("nan"), 0.0]) for n in range(3) for name in "ab"}
    assert convert_model_state_dict(tensors, key_map).keys() == {"l.0.a", "l.1.a", "l.2.a"}  # NaN repeats NaN
    tensors["h.0.b"], tensors["h.2.b"] = torch.tensor([1.0, float("nan"), -0.0]), torch.zeros(3)
    with pytest.raises(KeyMapError) as error:
        convert_model_state_dict(tensors, key_map)
    assert error.value.faults == tuple(f"h.{n}.b should repeat h.{n}.a, but differs from it" for n in (0, 2))


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

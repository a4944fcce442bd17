"""Choosing among the key maps of a family."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from kinfold import CheckpointConverter, KeyMap
from kinfold.checkpoint import Manifest, TensorInfo
from kinfold.checkpoint.manifest import state_dict_manifest
from kinfold.errors import CertificateError, KeyMapError
from kinfold.keymap import permute_rotary, rename

CONVERTER = CheckpointConverter(
    hf=KeyMap(rename("h.{n}.a", "layers.{n}.x"), rename("h.{n}.b", "layers.{n}.y")),
    gguf=KeyMap(rename("blk.{n}.a", "layers.{n}.x"), rename("blk.{n}.b", "layers.{n}.y")),
)


def manifest(*names: str) -> Manifest:
    return {name: TensorInfo((2,), "float32", "float32") for name in names}


TARGET = manifest("layers.0.x", "layers.0.y")


@pytest.mark.parametrize(
    ("source", "layout"),
    [
        (("h.0.a", "h.0.b"), "hf"),
        (("blk.0.a", "blk.0.b"), "gguf"),
        (("layers.0.x", "layers.0.y"), "native"),
    ],
)
def test_the_map_whose_certificate_holds(source: tuple[str, ...], layout: str) -> None:
    assert CONVERTER.choose(manifest(*source), TARGET, None, what="it").layout == layout


def test_a_checkpoint_that_mixes_two_layouts_is_refused() -> None:
    with pytest.raises(CertificateError):
        CONVERTER.choose(manifest("h.0.a", "blk.0.b"), TARGET, None, what="it")


def test_the_nearest_map_says_what_is_wrong() -> None:
    with pytest.raises(CertificateError) as error:
        CONVERTER.choose(manifest("blk.0.a", "blk.0.c"), TARGET, None, what="weights.gguf")
    assert error.value.summary == (
        "No key map explains weights.gguf (tried: hf, gguf, native). The nearest, gguf, fails on:"
    )
    assert error.value.faults == ("blk.0.c (2,) is taken by no rule", "layers.0.y (2,) is filled by no tensor")


def test_without_maps_the_native_layout_is_read() -> None:
    assert CheckpointConverter().choose(TARGET, TARGET, None, what="it").layout == "native"
    with pytest.raises(CertificateError, match=r"tried: native"):
        CheckpointConverter().choose(manifest("a"), TARGET, None, what="it")


def test_what_is_native_already_is_not_permuted_again() -> None:
    converter = CheckpointConverter(gguf=KeyMap(permute_rotary("blk.{n}.q", "layers.{n}.q", heads="heads")))
    config = SimpleNamespace(heads=2)
    target = {"layers.0.q": TensorInfo((8,), "float32", "float32")}
    native = {"layers.0.q": torch.arange(8.0)}
    plan = converter.choose(state_dict_manifest(native), target, config, what="it").certificate.plan
    assert torch.equal(dict(plan.load(native.__getitem__))["layers.0.q"], native["layers.0.q"])


def test_whole_state_dicts_there_and_back() -> None:
    native = {"layers.0.x": torch.zeros(2), "layers.0.y": torch.ones(2)}
    foreign = CONVERTER.export(native, None, layout="gguf")
    assert list(foreign) == ["blk.0.a", "blk.0.b"]
    assert CONVERTER.load(foreign, None, layout="gguf").keys() == native.keys()
    assert list(native) == ["layers.0.x", "layers.0.y"]


def test_a_state_dict_of_another_layout_is_refused() -> None:
    foreign = {"blk.0.a": torch.zeros(2), "blk.0.b": torch.zeros(2)}
    with pytest.raises(CertificateError, match="The key map 'hf' does not explain this state dict"):
        CONVERTER.load(foreign, None, layout="hf")
    with pytest.raises(CertificateError, match=r"blk\.0\.a \(2,\) is filled by no tensor"):
        CONVERTER.export(foreign, None, layout="hf")


def test_a_parameter_that_does_not_fit_is_not_exported() -> None:
    converter = CheckpointConverter(gguf=KeyMap(permute_rotary("blk.{n}.q", "layers.{n}.q", heads=2)))
    with pytest.raises(CertificateError, match=r"the rows of \(6,\) are no multiple of 2 \* 2 heads"):
        converter.export({"layers.0.q": torch.zeros(6)}, None, layout="gguf")


def test_an_unknown_layout_names_the_nearest() -> None:
    with pytest.raises(KeyMapError, match="Did you mean 'gguf'"):
        CONVERTER.export({}, None, layout="ggfu")


def test_the_manifest_of_a_state_dict() -> None:
    assert state_dict_manifest({"a": torch.zeros(2, 3, dtype=torch.bfloat16, device="meta")}) == {
        "a": TensorInfo((2, 3), "bfloat16", "bfloat16")
    }


def test_layouts_that_only_values_tell_apart_are_refused() -> None:
    turned = permute_rotary("layers.{n}.x", "layers.{n}.x", heads=1)
    converter = CheckpointConverter(hf=KeyMap(turned, rename("layers.{n}.y", "layers.{n}.y"), rename("a", "b")))
    with pytest.raises(CertificateError, match=r"hf, native all explain it"):
        converter.choose(TARGET, TARGET, None, what="it")


def test_layouts_that_do_the_same_are_no_matter() -> None:
    same = KeyMap(rename("layers.{n}.x", "layers.{n}.x"), rename("layers.{n}.y", "layers.{n}.y"))
    assert CheckpointConverter(hf=same).choose(TARGET, TARGET, None, what="it").certificate.holds


def test_what_is_native_already_is_not_converted_again() -> None:
    converter = CheckpointConverter(shift=KeyMap(rename("a", "b"), rename("b", "c")))
    with pytest.raises(KeyMapError):
        converter.load(
            converter.load({"a": torch.ones(2), "b": torch.zeros(2)}, None, layout="shift"), None, layout="shift"
        )
    circle = CheckpointConverter(swap=KeyMap(rename("a", "b"), rename("b", "a")))
    with pytest.raises(KeyMapError, match="converted already"):
        circle.load({"a": torch.ones(2), "b": torch.zeros(2)}, None, layout="swap")

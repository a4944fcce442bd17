"""Choosing among the key maps of a family."""

from __future__ import annotations

import pytest
import torch

from kinfold import CheckpointConverter, KeyMap
from kinfold.checkpoint import Manifest, TensorInfo
from kinfold.errors import CertificateError, KeyMapError
from kinfold.keymap import rename

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


def test_the_nearest_map_says_what_is_wrong() -> None:
    with pytest.raises(CertificateError) as error:
        CONVERTER.choose(manifest("blk.0.a", "blk.0.c"), TARGET, None, what="weights.gguf")
    assert error.value.summary == (
        "No key map explains weights.gguf (tried: hf, gguf, native). The nearest, gguf, fails on:"
    )
    assert error.value.faults == ("blk.0.c (2,) is taken by no rule", "layers.0.y (2,) is filled by no tensor")


def test_whole_state_dicts_there_and_back() -> None:
    native = {"layers.0.x": torch.zeros(2), "layers.0.y": torch.ones(2)}
    foreign = CONVERTER.export(native, None, layout="gguf")
    assert list(foreign) == ["blk.0.a", "blk.0.b"]
    assert CONVERTER.load(foreign, None, layout="gguf").keys() == native.keys()
    with pytest.raises(CertificateError):
        CONVERTER.load(foreign, None, layout="hf")
    with pytest.raises(KeyMapError, match="Did you mean 'gguf'"):
        CONVERTER.export(native, None, layout="ggfu")

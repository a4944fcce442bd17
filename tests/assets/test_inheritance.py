"""Cards based on others: what is inherited, what is not, and what is said where a base cannot be had."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kinfold import load_model, retrieve_asset_card
from kinfold.assets import read_card
from kinfold.errors import CardError

WriteCard = Callable[..., Path]
DIGEST = f"sha256:{'0' * 64}"


def test_what_a_card_does_not_say_its_base_says(card: WriteCard) -> None:
    base = card(
        "a",
        "model_family: llama\nmodel_arch: 7b\ncheckpoint: w\ntokenizer: t\nmodel_config: {num_layers: 2, r: {a: 1}}",
    )
    path = card("b", "base: a\nmodel_config: {r: {b: 2}, num_heads: 4}")
    top = card("c", "base: b\nmodel_arch: 13b\nmodel_config: {num_layers: 3}\ntokenizer: t2")
    found = retrieve_asset_card("c")
    assert (found.name, found.model_family, found.model_arch, found.source) == ("c", "llama", "13b", top)
    assert found.model_config == {"num_layers": 3, "r": {"a": 1, "b": 2}, "num_heads": 4}
    assert (found.checkpoint, found.tokenizer) == (base.parent / "w", top.parent / "t2")
    assert found.written
    assert found.written.files == (top, path, base)
    assert found.written.each() == {
        "name": ("c", top),
        "model_family": ("llama", base),
        "model_arch": ("13b", top),
        "checkpoint": ("w", base),
        "tokenizer": ("t2", top),
        "base": ("b", top),
        "model_config.num_layers": (3, top),
        "model_config.r.a": (1, base),
        "model_config.r.b": (2, path),
        "model_config.num_heads": (4, path),
    }


def test_paths_are_relative_to_the_file_they_stand_in(card: WriteCard, tmp_path: Path) -> None:
    base = card("a", "model_family: llama\ncheckpoint: file:../w")
    path = card("x", "base: a", tmp_path / "elsewhere")
    assert read_card(path).checkpoint == base.parents[1] / "w"


def test_the_checksum_of_other_weights_is_not_inherited(card: WriteCard) -> None:
    card("a", f"model_family: llama\ncheckpoint: w\nchecksum: {DIGEST}")
    card("b", "base: a\ncheckpoint: other")
    card("c", "base: a")
    places = {name: retrieve_asset_card(name).checkpoint_place for name in "abc"}
    assert {name: place and place.checksum for name, place in places.items()} == {"a": DIGEST, "b": None, "c": DIGEST}


def test_a_value_that_replaces_a_mapping(card: WriteCard) -> None:
    card("a", "model_family: llama\nmodel_config: {r: {a: 1}, s: 1}")
    top = card("b", "base: a\nmodel_config: {r: null, s: {t: 2}}")
    found = retrieve_asset_card("b")
    assert found.model_config == {"r": None, "s": {"t": 2}}
    assert found.written
    assert found.written.origins["model_config.r"] == found.written.origins["model_config.s.t"] == top
    assert not {"model_config.r.a", "model_config.s"} & set(found.written.origins)


def test_a_card_named_by_its_file_may_have_the_name_of_its_base(card: WriteCard, tmp_path: Path) -> None:
    card("a", "model_family: llama\nmodel_arch: 7b")
    assert read_card(card("a", "base: a", tmp_path / "elsewhere")).model_arch == "7b"


def test_bases_that_go_in_a_circle(card: WriteCard) -> None:
    a, b, c = card("a", "base: b"), card("b", "base: c"), card("c", "base: b")
    with pytest.raises(CardError) as error:
        retrieve_asset_card("a")
    assert error.value.summary == "The bases of cards go in a circle:"
    assert error.value.faults == (f"{a} has the base 'b'", f"{b} has the base 'c'", f"{c} has the base 'b'")
    itself = card("d", "base: d")
    with pytest.raises(CardError) as error:
        retrieve_asset_card("d")
    assert error.value.faults == (f"{itself} has the base 'd'",)


def test_bases_that_are_not_there_or_twice_or_broken(card: WriteCard, tmp_path: Path) -> None:
    a, b = card("a", "base: b"), card("b", "base: lama")
    with pytest.raises(CardError) as error:
        retrieve_asset_card("a")
    assert error.value.summary == f"The base of {b} cannot be had. There is no card 'lama'."
    assert error.value.faults == (f"{a} has the base 'b'",)
    assert error.value.hint == "Did you mean 'llama'?"
    twice = card("llama", "model_family: llama")
    card("c", "base: llama")
    with pytest.raises(CardError, match="There are 2 cards 'llama'") as error:
        retrieve_asset_card("c")
    assert str(twice) in error.value.faults
    card("d", "base: e")
    card("e", "model_famly: llama")
    with pytest.raises(CardError, match="did you mean `model_family`"):
        retrieve_asset_card("d")


def test_a_wrong_value_is_told_with_the_file_it_stands_in(card: WriteCard) -> None:
    base = card("a", "model_family: llama\nmodel_config: {num_layer: 2}")
    top = card("b", "base: a\nmodel_config: {num_heads: x}")
    with pytest.raises(CardError) as error:
        load_model.get("llama").config_loader(retrieve_asset_card("b"))
    assert error.value.summary == f"{top} is not as it should be:"
    assert error.value.faults[0].startswith(f"`model_config.num_layer` (in {base}) is no field of LlamaConfig.")
    assert error.value.faults[1].startswith("`model_config.num_heads`: Expected")

"""Converting a whole state dict in memory."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from kinfold import KeyMap, convert_model_state_dict
from kinfold.errors import CertificateError, KeyMapError
from kinfold.keymap import permute_rotary, rename, split, stack

STATE = {"model.layers.0.w": torch.zeros(2), "model.layers.1.w": torch.ones(2), "other": torch.zeros(1)}


@pytest.fixture(autouse=True)
def _state_stays_as_it_was():
    before = {name: tensor.clone() for name, tensor in STATE.items()}
    yield
    assert list(before) == list(STATE)
    assert all(torch.equal(STATE[name], tensor) for name, tensor in before.items())


def test_by_rules() -> None:
    key_map = KeyMap(rename("model.layers.{layer}.w", "decoder.{layer}.w"), rename("other", "b"))
    converted = convert_model_state_dict(STATE, key_map)
    assert list(converted) == ["decoder.0.w", "decoder.1.w", "b"]
    assert torch.equal(converted["decoder.1.w"], torch.ones(2))


def test_by_rules_with_sizes_of_a_config() -> None:
    state = {"a": torch.arange(8)}
    converted = convert_model_state_dict(state, KeyMap(permute_rotary("a", "b", heads="n")), SimpleNamespace(n=2))
    assert converted["b"].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert state["a"].tolist() == list(range(8))


def test_rules_have_to_explain_all() -> None:
    with pytest.raises(CertificateError, match="other"):
        convert_model_state_dict(STATE, KeyMap(rename("model.layers.{layer}.w", "decoder.{layer}.w")))


def test_all_that_rules_do_not_explain_comes_at_once() -> None:
    state = {"h.0.qk": torch.zeros(5), "h.0.e.0": torch.zeros(2), "h.0.e.2": torch.zeros(2), "new": torch.zeros(1)}
    key_map = KeyMap(
        split("h.{n}.qk", into=("l.{n}.q", "l.{n}.k"), sizes=(2, 2)), stack("h.{n}.e.{e}", "l.{n}.e", over="e")
    )
    with pytest.raises(CertificateError) as error:
        convert_model_state_dict(state, key_map)
    assert error.value.faults == (
        "new (1,) is taken by no rule",
        "e 1 is missing between 0 and 2",
        "split(h.{n}.qk -> l.{n}.q, l.{n}.k) with {'n': 0}: (5,) has not 2 + 2 in dimension 0",
        "stack(h.{n}.e.{e} -> l.{n}.e): h.0.e.1 is missing beside h.0.e.0",
        "l.0.e (2,) is filled by no tensor",
    )


def test_what_is_converted_already_is_refused() -> None:
    key_map = KeyMap(rename("model.layers.{layer}.w", "decoder.{layer}.w"), rename("other", "b"))
    with pytest.raises(CertificateError, match=r"decoder\.0\.w \(2,\) is taken by no rule"):
        convert_model_state_dict(convert_model_state_dict(STATE, key_map), key_map)


def test_by_regular_expressions_the_first_that_matches_is_applied() -> None:
    table = {r"^model\.layers\.([0-9]+)\.": r"decoder.\1.", r"\.w$": ".weight"}
    assert list(convert_model_state_dict(STATE, table)) == ["decoder.0.w", "decoder.1.w", "other"]


def test_two_names_that_become_one_are_refused() -> None:
    with pytest.raises(KeyMapError, match=r"model\.layers\.0\.w and model\.layers\.1\.w both become model\.layers\.w"):
        convert_model_state_dict(STATE, {r"\.[0-9]+\.": "."})


def test_a_name_that_becomes_one_that_stays_is_refused() -> None:
    with pytest.raises(KeyMapError, match=r"model\.layers\.0\.w and other both become other"):
        convert_model_state_dict(STATE, {r".*0\.w": "other"})


def test_malformed_expressions_come_all_at_once() -> None:
    with pytest.raises(KeyMapError) as error:
        convert_model_state_dict(STATE, {"(": "", "[": ""})
    assert len(error.value.faults) == 2


@pytest.mark.parametrize("replacement", [r"\2", r"\g<layer>", "\\"])
def test_a_malformed_replacement_is_named(replacement: str) -> None:
    with pytest.raises(KeyMapError) as error:
        convert_model_state_dict(STATE, {"layers.([0-9])": replacement})
    (fault,) = error.value.faults
    assert fault.startswith(f"{replacement!r} cannot replace 'layers.([0-9])': ")

"""Converting a whole state dict in memory."""

from __future__ import annotations

import pytest
import torch

from kinfold import KeyMap, convert_model_state_dict
from kinfold.errors import CertificateError, KeyMapError
from kinfold.keymap import rename

STATE = {"model.layers.0.w": torch.zeros(2), "model.layers.1.w": torch.ones(2), "other": torch.zeros(1)}


def test_by_rules() -> None:
    key_map = KeyMap(rename("model.layers.{layer}.w", "decoder.{layer}.w"), rename("other", "b"))
    before = dict(STATE)
    assert list(convert_model_state_dict(STATE, key_map)) == ["decoder.0.w", "decoder.1.w", "b"]
    assert before == STATE


def test_rules_have_to_explain_all() -> None:
    with pytest.raises(CertificateError, match="other"):
        convert_model_state_dict(STATE, KeyMap(rename("model.layers.{layer}.w", "decoder.{layer}.w")))


def test_by_regular_expressions_the_first_that_matches_is_applied() -> None:
    table = {r"^model\.layers\.([0-9]+)\.": r"decoder.\1.", r"\.w$": ".weight"}
    assert list(convert_model_state_dict(STATE, table)) == ["decoder.0.w", "decoder.1.w", "other"]


def test_two_names_that_become_one_are_refused() -> None:
    with pytest.raises(KeyMapError, match=r"model\.layers\.0\.w and model\.layers\.1\.w both become model\.layers\.w"):
        convert_model_state_dict(STATE, {r"\.[0-9]+\.": "."})


def test_malformed_expressions_come_all_at_once() -> None:
    with pytest.raises(KeyMapError) as error:
        convert_model_state_dict(STATE, {"(": "", "[": ""})
    assert len(error.value.faults) == 2

"""Patterns: named holes for numbers, everything else literal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinfold.errors import KeyMapError
from kinfold.keymap import Pattern


@pytest.mark.parametrize(
    ("pattern", "name", "holes"),
    [
        ("norm.weight", "norm.weight", {}),
        ("layers.{layer}.w1", "layers.12.w1", {"layer": 12}),
        ("layers.{layer}.w1", "layers.12.w2", None),
        ("layers.{layer}.w1", "layers.01.w1", None),
        ("layers.{layer}.w1", "layers.0.w1", {"layer": 0}),
        ("layers.{layer}.w1", "layers.x.w1", None),
        ("layers.{layer}.w1", "a.layers.1.w1", None),
        ("h.{a}.e{b}.0", "h.3.e10.0", {"a": 3, "b": 10}),
        ("h.{a}.e{b}.0", "h.3.e10.1", None),
    ],
)
def test_match(pattern: str, name: str, holes: dict[str, int] | None) -> None:
    assert Pattern(pattern).match(name) == holes


@given(st.integers(0, 10**6), st.integers(0, 500))
def test_format_is_the_inverse_of_match(layer: int, expert: int) -> None:
    pattern = Pattern("model.layers.{layer}.mlp.experts.{expert}.w1.weight")
    holes = {"layer": layer, "expert": expert}
    assert pattern.match(pattern.format(holes)) == holes


@pytest.mark.parametrize("text", ["", "a.{layer", "a.layer}", "a.{}", "a.{1x}", "a.{x}.{x}", "a.{{x}}"])
def test_malformed_patterns_are_refused(text: str) -> None:
    with pytest.raises(KeyMapError, match="malformed"):
        Pattern(text)

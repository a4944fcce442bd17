"""Patterns: named holes for numbers, everything else literal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinfold.errors import KeyMapError
from kinfold.keymap import Pattern
from kinfold.keymap.pattern import normalise


@pytest.mark.parametrize(
    ("pattern", "name", "holes"),
    [
        ("norm.weight", "norm.weight", {}),
        ("norm.weight", "norm_weight", None),
        ("layers.{layer}.w1", "layers.12.w1", {"layer": 12}),
        ("layers.{layer}.w1", "layers.12.w2", None),
        ("layers.{layer}.w1", "layers.01.w1", None),
        ("layers.{layer}.w1", "layers.00.w1", None),
        ("layers.{layer}.w1", "layers.0.w1", {"layer": 0}),
        ("layers.{layer}.w1", "layers.x.w1", None),
        ("layers.{layer}.w1", "layers.-1.w1", None),
        ("layers.{layer}.w1", "layers..w1", None),
        ("layers.{layer}.w1", "layers.{}.w1", None),
        ("layers.{layer}.w1", "layers.{layer}.w1", None),
        ("layers.{layer}.w1", "layers.3.w1.bias", None),
        ("layers.{layer}.w1", "a.layers.1.w1", None),
        ("layers.{layer}.w1", "layers.3.w01", None),
        ("layers.{layer}.w1", "layers.٣.w1", None),  # digits of another script would be the layer 3 once more
        ("layers.{layer}.w1", f"layers.{'9' * 5000}.w1", None),
        ("h.{a}.e{b}.0", "h.3.e10.0", {"a": 3, "b": 10}),
        ("h.{a}.e{b}.0", "h.3.e10.1", None),
        ("h{a}{b}", "h12", None),  # whose digits are whose is not known
    ],
)
def test_match(pattern: str, name: str, holes: dict[str, int] | None) -> None:
    assert Pattern(pattern).match(name) == holes


@given(st.integers(0, 10**18 - 1), st.integers(0, 500))
def test_format_is_the_inverse_of_match(layer: int, expert: int) -> None:
    pattern = Pattern("model.layers.{layer}.mlp.experts.{expert}.w1.weight")
    holes = {"layer": layer, "expert": expert}
    assert pattern.match(pattern.format(holes)) == holes


@given(st.text(alphabet="a.{}019٣²", max_size=8), st.sampled_from(["a.{x}", "{x}.a", "a{x}.{y}", "{x}1.{y}", "a.1"]))
def test_a_name_that_matches_is_the_only_one_for_its_numbers(name: str, text: str) -> None:
    pattern = Pattern(text)
    holes = pattern.match(name)
    assert holes is None or pattern.format(holes) == name


def test_names_that_differ_in_their_numbers_alone_have_one_key() -> None:
    assert normalise("layers.3.w1") == ("layers.{}.w{}", ("3", "1"))
    assert normalise("layers.12.w1")[0] == normalise("layers.3.w2")[0] == Pattern("layers.{layer}.w1").form()[0]


@pytest.mark.parametrize("text", ["", "a.{layer", "a.layer}", "a.{}", "a.{1x}", "a.{a b}", "a.{x}.{x}", "a.{{x}}"])
def test_malformed_patterns_are_refused(text: str) -> None:
    with pytest.raises(KeyMapError, match="malformed"):
        Pattern(text)


def test_all_that_is_malformed_comes_at_once() -> None:
    with pytest.raises(KeyMapError) as error:
        Pattern("{1}.{x}.{x}.{")
    assert error.value.faults == (
        "its braces are not balanced",
        "the hole '1' is no identifier",
        "the hole 'x' stands twice",
    )

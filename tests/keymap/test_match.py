"""Finding rules by names: each name is looked at once, whatever rules there are."""

from __future__ import annotations

from cProfile import Profile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinfold.keymap import KeyMap, rename, stack
from kinfold.keymap.keymap import BoundKeyMap
from kinfold.keymap.pattern import by_form, normalise
from kinfold.memory import collector_paused

NAMES = st.lists(st.text(alphabet="ab.{}019٣²\n\0", max_size=12), max_size=30)


@given(NAMES)
def test_names_sorted_by_form_are_those_normalised_one_by_one(names: list[str]) -> None:
    expected: dict[str, list] = {}
    for name in names:
        form, numbers = normalise(name)
        expected.setdefault(form, []).append((name, numbers))
    assert list(by_form(names).items()) == list(expected.items())


@given(NAMES)
def test_a_form_has_as_many_numbers_as_each_of_its_names(names: list[str]) -> None:
    for form, group in by_form(names).items():
        assert {form.replace("{{", "").count("{}")} == {len(numbers) for _, numbers in group}


def test_digits_of_a_pattern_tell_it_from_those_of_the_same_form() -> None:
    bound = KeyMap(
        rename("h.{layer}.mlp.0.w1", "h.{layer}.up"),
        rename("h.{layer}.mlp.2.w1", "h.{layer}.down"),
        rename("h.{layer}.mlp.2.w{part}", "h.{layer}.parts.{part}"),
        rename("h.7.mlp.0.w2", "seven"),
    ).bind()
    names = ["h.1.mlp.0.w1", "h.1.mlp.2.w1", "h.1.mlp.2.w5", "h.7.mlp.0.w2", "h.1.mlp.0.w2", "h.1.mlp.1.w1"]
    matching = bound.match(names, "source")
    assert [(str(use.rule), dict(use.holes)) for use in matching.applications] == [
        ("rename(h.{layer}.mlp.0.w1 -> h.{layer}.up)", {"layer": 1}),
        ("rename(h.{layer}.mlp.2.w1 -> h.{layer}.down)", {"layer": 1}),
        ("rename(h.{layer}.mlp.2.w{part} -> h.{layer}.parts.{part})", {"layer": 1, "part": 1}),
        ("rename(h.{layer}.mlp.2.w{part} -> h.{layer}.parts.{part})", {"layer": 1, "part": 5}),
        ("rename(h.7.mlp.0.w2 -> seven)", {}),
    ]
    assert [(name, len(rules)) for name, rules in matching.ambiguous] == [("h.1.mlp.2.w1", 2)]
    assert matching.unmatched == ["h.1.mlp.0.w2", "h.1.mlp.1.w1"]


def calls(key_map: BoundKeyMap, names: list[str]) -> int:
    """How many functions are called to look names up, Python's own and regular expressions among them."""
    profile = Profile()
    with collector_paused():  # hypothesis has functions called when garbage is collected
        profile.runcall(key_map.lookup, names)
    return sum(entry.callcount for entry in profile.getstats())


RULES = [
    rename("h.{layer}.norm.weight", "layers.{layer}.norm"),
    stack("h.{layer}.experts.{expert}.w1", "layers.{layer}.experts", over="expert"),
]
"""What the names of the tests below are looked up by."""


def names(layers: int) -> list[str]:
    return [
        name
        for layer in range(10, 10 + layers)
        for name in (f"h.{layer}.norm.weight", *(f"h.{layer}.experts.{expert}.w1" for expert in range(10)))
    ]


@pytest.mark.parametrize(
    "pattern",
    [
        "other_%s.{layer}.weight",
        "h.%s.norm.weight",  # of the form of names that are asked for, as are the next two
        "h.{layer}.experts.{expert}.w%s",
        "h.{layer}.experts.%s.w1",
    ],
)
def test_ten_times_as_many_rules_call_for_no_more_steps(pattern: str) -> None:
    others = [rename(pattern % number, f"{pattern % number}.too") for number in range(1000, 1300)]
    asked = names(layers=20)
    few, many = (KeyMap(*others[:number], *RULES).bind() for number in (30, 300))
    assert many.lookup(asked) == few.lookup(asked) == KeyMap(*RULES).bind().lookup(asked)
    assert len(few.lookup(asked)) == len(asked)
    assert calls(many, asked) == calls(few, asked)


def test_ten_times_as_many_names_call_for_ten_times_as_many_steps() -> None:
    bound = KeyMap(*RULES).bind()
    assert calls(bound, names(layers=80)) <= 10 * calls(bound, names(layers=8))

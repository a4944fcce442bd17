"""Rules: what does not go together is refused where it is written."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kinfold import keymap
from kinfold.errors import KeyMapError
from kinfold.keymap import (
    Rule,
    chain,
    concat,
    drop,
    offset,
    pad,
    permute_rotary,
    rename,
    reshape,
    scale,
    split,
    stack,
    tie,
    transpose,
    unpad,
    unstack,
)


def test_a_rule_reads_as_it_was_written() -> None:
    assert str(rename("a.{n}", "b.{n}")) == "rename(a.{n} -> b.{n})"
    assert str(split("a", into=("b", "c"), sizes=(1, 1))) == "split(a -> b, c)"
    assert str(drop("a", reason="recomputed")) == "drop(a)"


@pytest.mark.parametrize(
    "rule",
    [
        rename("a.{n}", 'b"\\.{n}'),
        transpose("a", "b", dim0=1, dim1=2),
        reshape("a", "b", there=("d", 1, -1), here=("d", -1)),
        permute_rotary("a", "b", heads="num_heads", rotary_dim=4, start="nope_dim"),
        split("a", into=("b",), sizes=("d",), dim=1, groups="num_heads"),
        concat(("a", "b"), into="c", sizes=(1, 2)),
        stack("a.{e}", "b", over="e", count="num_experts"),
        unstack("a", "b.{e}", over="e", count=3),
        pad("a", "b", size=3, padded=4),
        unpad("a", "b", padded=4, size=3, dim=1),
        scale("a", "b", by=0.5),
        offset("a", "b", by=1.0),
        rename("a", "b", unless="tied"),
        tie("a", to="b"),
        tie("a", to="b", when="tied", written=False),
        drop("a", reason="a 'reason'"),
        drop("a", reason="recomputed", when="scaling"),
        drop("ä.😀", reason='😀 "\n\\'),
        chain(transpose("a", "t"), split("t", into=("b", "c"), sizes=(1, 2))),
    ],
    ids=str,
)
def test_the_text_of_a_rule_is_the_call_that_makes_it(rule: Rule) -> None:
    again = eval(rule.text, dict(vars(keymap)))
    assert again == rule
    for name in ("sources", "targets", "over", "when", "unless", "written"):
        assert getattr(again, name) == getattr(rule, name)
    assert again.reason == rule.reason


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ((), "there is no rule"),
        ((rename("a", "b"), rename("a", "c")), "a is taken twice"),
        ((rename("a", "c"), rename("b", "c")), "c is given twice"),
        ((rename("a", "b"), drop("b", reason="why")), "drop(b) gives nothing"),
        ((rename("b", "c"), rename("a", "b")), "b is taken before it is given"),
        ((stack("a.{x}", "b", over="x"), stack("c.{y}", "d", over="y")), "more than one hole: x, y"),
    ],
)
def test_chains_that_do_not_hold_together_are_refused(rules: tuple[Rule, ...], said: str) -> None:
    with pytest.raises(KeyMapError) as error:
        chain(*rules)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: rename("a.{layer}", "b"), "b has the holes [], a.{layer} has ['layer']"),
        (lambda: rename("a", "b.{layer}"), "b.{layer} has the holes ['layer'], a has []"),
        (
            lambda: stack("a.{layer}", "b.{layer}", over="expert"),
            "has to be in some of its patterns, not in 0",
        ),
        (lambda: stack("a.{e}", "a.{e}", over="e"), "has to be in some of its patterns, not in 2"),
        (lambda: split("a", into=("b", "c"), sizes=(1,)), "2 targets, but 1 sizes"),
        (lambda: concat(("a", "b"), into="c", sizes=(1,)), "2 sources, but 1 sizes"),
        (lambda: concat(("a.{n}", "b"), into="c.{n}", sizes=(1, 1)), "b has the holes []"),
        (lambda: tie("a.{layer}", to="b"), "b has the holes []"),
    ],
)
def test_sides_that_do_not_go_together_are_refused(make: Callable[[], Rule], said: str) -> None:
    with pytest.raises(KeyMapError) as error:
        make()
    assert said in str(error.value)

"""Rules: what does not go together is refused where it is written."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kinfold.errors import KeyMapError
from kinfold.keymap import Rule, concat, drop, rename, split, stack, tie


def test_a_rule_reads_as_it_was_written() -> None:
    assert str(rename("a.{n}", "b.{n}")) == "rename(a.{n} -> b.{n})"
    assert str(split("a", into=("b", "c"), sizes=(1, 1))) == "split(a -> b, c)"
    assert str(drop("a", reason="recomputed")) == "drop(a)"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: rename("a.{layer}", "b"), "b has the holes [], a.{layer} has ['layer']"),
        (lambda: rename("a", "b.{layer}"), "b.{layer} has the holes ['layer'], a has []"),
        (lambda: stack("a.{layer}", "b.{layer}", over="expert"), "a.{layer} has no hole 'expert'"),
        (lambda: stack("a.{e}", "a.{e}", over="e"), "a.{e} has the holes ['e']"),
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

"""The assignment is the best there is, and its margins are what forbidding a pair costs: held against all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations, permutations

from hypothesis import given
from hypothesis import strategies as st

from kinfold.scaffold.keymap.inference.assignment import best_pairs, components

Scores = Mapping[tuple[int, int], float]


def every_matching(rows: int, columns: int) -> Iterator[list[tuple[int, int]]]:
    for count in range(min(rows, columns) + 1):
        for chosen in combinations(range(rows), count):
            for order in permutations(range(columns), count):
                yield list(zip(chosen, order, strict=True))


def best_total(scores: Scores, rows: int, columns: int, forbidden: tuple[int, int] | None = None) -> float:
    return max(
        sum(scores[pair] for pair in matching)
        for matching in every_matching(rows, columns)
        if all(pair in scores and pair != forbidden for pair in matching)
    )


@st.composite
def problems(draw: st.DrawFn) -> tuple[Scores, int, int]:
    rows, columns = draw(st.integers(0, 4)), draw(st.integers(0, 4))
    pairs = [(row, column) for row in range(rows) for column in range(columns)]
    allowed = draw(st.sets(st.sampled_from(pairs))) if pairs else set()
    return {pair: draw(st.integers(-8, 24)) / 4 for pair in sorted(allowed)}, rows, columns


@given(problems())
def test_no_other_matching_is_better(problem: tuple[Scores, int, int]) -> None:
    scores, rows, columns = problem
    found = best_pairs(scores, rows, columns)
    taken = [column for column, _, _ in found.values()]
    assert len(set(taken)) == len(taken)
    assert sum(scores[row, column] for row, (column, _, _) in found.items()) == best_total(scores, rows, columns)


@given(problems())
def test_a_margin_is_what_forbidding_the_pair_costs(problem: tuple[Scores, int, int]) -> None:
    scores, rows, columns = problem
    for row, (column, margin, other) in best_pairs(scores, rows, columns).items():
        without = best_total(scores, rows, columns, forbidden=(row, column))
        assert margin == best_total(scores, rows, columns) - without
        assert other is None or (row, other) in scores


def test_what_has_nothing_in_common_is_apart() -> None:
    pairs = [("a", 1), ("b", 1), ("b", 2), ("c", 3)]
    assert components(pairs) == [(["a", "b"], [1, 2]), (["c"], [3])]

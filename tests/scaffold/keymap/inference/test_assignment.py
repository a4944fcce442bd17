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


def best_total(scores: Scores, rows: int, columns: int) -> float:
    """The largest total of all matchings of allowed pairs."""
    return max(
        sum(scores[pair] for pair in matching)
        for matching in every_matching(rows, columns)
        if all(pair in scores for pair in matching)
    )


def without(scores: Scores, row: int, column: int) -> Scores:
    return {pair: score for pair, score in scores.items() if pair != (row, column)}


@st.composite
def problems(draw: st.DrawFn) -> tuple[Scores, int, int]:
    """Some pairs are forbidden, some scores are negative or alike; all are quarters, so that sums are exact."""
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
    for row, (column, margin, _) in best_pairs(scores, rows, columns).items():
        fallen = best_total(without(scores, row, column), rows, columns)
        assert margin == best_total(scores, rows, columns) - fallen


@given(problems())
def test_a_row_without_its_pair_is_as_well_off_with_the_column_that_is_named(problem: tuple[Scores, int, int]) -> None:
    scores, rows, columns = problem
    for row, (column, margin, other) in best_pairs(scores, rows, columns).items():
        rest = {pair: score for pair, score in scores.items() if pair[0] != row and pair[1] != other}
        own = 0.0 if other is None else without(scores, row, column)[row, other]
        assert own + best_total(rest, rows, columns) == best_total(scores, rows, columns) - margin


def test_what_has_nothing_in_common_is_apart() -> None:
    pairs = [("a", 1), ("b", 1), ("b", 2), ("c", 3)]
    assert components(pairs) == [(["a", "b"], [1, 2]), (["c"], [3])]


@given(problems())
def test_the_best_of_all_is_the_best_of_each_part(problem: tuple[Scores, int, int]) -> None:
    scores, rows, columns = problem
    parts = components(scores)
    of_parts = [{pair: scores[pair] for pair in scores if pair[0] in part} for part, _ in parts]
    assert [{column for _, column in part} for part in of_parts] == [set(side) for _, side in parts]
    assert sum(map(len, of_parts)) == len(scores)
    found = {row: pair for part in of_parts for row, pair in best_pairs(part, rows, columns).items()}
    assert {row: margin for row, (_, margin, _) in found.items()} == {
        row: margin for row, (_, margin, _) in best_pairs(scores, rows, columns).items()
    }

"""The assignment problem: the pairs of two sides with the largest total score, and how sure each of them is."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from heapq import heappop, heappush
from math import inf
from typing import TypeVar

from kinfold.scaffold.keymap.connected import connected

R = TypeVar("R", bound=Hashable)
C = TypeVar("C", bound=Hashable)


def best_pairs(
    scores: Mapping[tuple[int, int], float], rows: int, columns: int
) -> dict[int, tuple[int, float, int | None]]:
    """Pair rows with columns so that the total score is largest; a row or column may also stay alone, for 0.

    The algorithm is that of Jonker and Volgenant (1987): shortest augmenting paths over reduced costs, here over the
    allowed pairs alone.

    Args:
        scores: The score of each pair that is allowed; only pairs above 0 can be worth it.
        rows: The number of rows.
        columns: The number of columns.

    Returns:
        For each paired row: its column; by how much the total falls if this pair is forbidden; and the column that
        the row would take then (None for none).
    """
    costs: list[dict[int, float]] = [{} for _ in range(rows)]
    for (row, column), score in scores.items():
        if score > 0:
            costs[row][column] = -score
    for row in range(rows):
        costs[row][columns + row] = 0.0  # a column of its own, which means that it stays alone
    solver = _Solver(costs, rows + columns)
    margins = _Margins(solver)
    pairs = {}
    for row in range(rows):
        if solver.column_of[row] < columns:
            margin, other = margins.without(row)
            pairs[row] = solver.column_of[row], margin, other if other < columns else None
    return pairs


def components(pairs: Iterable[tuple[R, C]]) -> list[tuple[list[R], list[C]]]:
    """The connected parts of a graph of pairs of rows and columns: the rows and the columns of each."""
    parts = connected(pairs, lambda pair: ((False, pair[0]), (True, pair[1])))
    return [(list(dict.fromkeys(row for row, _ in part)), list(dict.fromkeys(c for _, c in part))) for part in parts]


class _Solver:
    """Rows and columns with potentials; each row is matched by a shortest augmenting path.

    The reduced cost of a pair, its cost less both potentials, is never below 0, and 0 where they are matched.
    Potentials of columns are never above 0, and 0 where they have no row.
    """

    def __init__(self, costs: list[dict[int, float]], columns: int) -> None:
        self.costs = costs
        self._sorted = [sorted((cost, column) for column, cost in of_row.items()) for of_row in costs]
        self.of_row = [min(of_row.values()) for of_row in costs]
        self.of_column = [0.0] * columns
        self.row_of = [-1] * columns
        self.column_of = [-1] * len(costs)
        for row in range(len(costs)):
            self._add(row)

    def _add(self, start: int) -> None:
        """Match one more row."""
        distance: dict[int, float] = {}
        before: dict[int, int] = {}
        done: dict[int, float] = {}
        heap: list[tuple[float, int]] = []
        row, reached, bound = start, 0.0, inf
        while True:
            base = reached - self.of_row[row]
            for cost, column in self._sorted[row]:
                if base + cost >= bound:
                    break  # potentials of columns are never above 0
                length = base + cost - self.of_column[column]
                if length < bound and column not in done and length < distance.get(column, inf):
                    distance[column], before[column] = length, row
                    heappush(heap, (length, column))
                    if self.row_of[column] < 0:
                        bound = length
            reached, column = heappop(heap)
            while column in done:
                reached, column = heappop(heap)
            if self.row_of[column] < 0:
                break
            done[column] = reached
            row = self.row_of[column]
        self.of_row[start] += reached
        for seen, length in done.items():
            self.of_row[self.row_of[seen]] += reached - length
            self.of_column[seen] -= reached - length
        self._swap(column, before, start)

    def _swap(self, column: int, before: Mapping[int, int], start: int) -> None:
        """Match all rows of a path anew, from its last column back to its first row."""
        while True:
            row = before[column]
            self.row_of[column] = row
            self.column_of[row], column = column, self.column_of[row]
            if row == start:
                return


class _Margins:
    """By how much the cost rises if a row may not have its column, for a problem that is solved."""

    def __init__(self, solver: _Solver) -> None:
        self._solver = solver
        self._edges: list[list[tuple[float, int]]] = []
        self._to_free: list[tuple[float, int]] = []
        nearest = [inf] * len(solver.row_of)
        for row, of_row in enumerate(solver.costs):
            reduced = sorted((self._reduced(row, column), column) for column in of_row)
            free = (edge for edge in reduced if solver.row_of[edge[1]] < 0)
            self._to_free.append(next(free, (inf, -1)))
            self._edges.append([edge for edge in reduced if solver.row_of[edge[1]] not in (-1, row)])
            for length, column in self._edges[-1]:
                nearest[column] = min(nearest[column], length)
        self._nearest = nearest
        self._least = min((length for length, _ in self._to_free), default=inf)

    def _reduced(self, row: int, column: int) -> float:
        solver = self._solver
        return max(0.0, solver.costs[row].get(column, inf) - solver.of_row[row] - solver.of_column[column])

    def without(self, start: int) -> tuple[float, int]:
        """The rise, and the column that the row has then.

        It is the shortest path from the row to a column without a row, or around to its own. Of each row that is
        reached only its next nearest column waits in the heap.
        """
        own = self._solver.column_of[start]
        best, first = self._to_free[start]
        least = min(self._nearest[own], self._least)
        done = [False] * len(self._solver.row_of)
        heap: list[tuple[float, int, float, int, int, int]] = []

        def push_next(row: int, base: float, number: int, by: int) -> None:
            edges = self._edges[row]
            while number < len(edges) and done[edges[number][1]]:
                number += 1
            if number < len(edges) and base + edges[number][0] + least < best:
                length, column = edges[number]
                heappush(heap, (base + length, column, base, row, number, by))

        push_next(start, 0.0, 0, -1)
        while heap and heap[0][0] + least < best:
            reached, column, base, row, number, by = heappop(heap)
            push_next(row, base, number + 1, by)
            if done[column]:
                continue
            done[column] = True
            by = column if row == start else by
            owner = self._solver.row_of[column]
            around = reached + min(self._reduced(owner, own), self._to_free[owner][0])
            if around < best:
                best, first = around, by
            push_next(owner, reached, 0, by)
        return best, first

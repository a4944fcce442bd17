"""The assignment problem: the pairs of two sides with the largest total score, and how sure each of them is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf


def best_pairs(
    scores: Mapping[tuple[int, int], float], rows: int, columns: int
) -> dict[int, tuple[int, float, int | None]]:
    """Pair rows with columns so that the total score is largest; a row or column may also stay alone, for 0.

    The algorithm is that of Jonker and Volgenant (1987): shortest augmenting paths over reduced costs, O(n^3).

    Args:
        scores: The score of each pair that is allowed; only pairs above 0 can be worth it.
        rows: The number of rows.
        columns: The number of columns.

    Returns:
        For each paired row: its column; by how much the total falls if this pair is forbidden; and the column that
        the row would take then (None for none).
    """
    size = rows + columns  # each row may take a column of its own that means "alone", each column a row
    cost = [[0.0] * size for _ in range(size)]
    for row in range(rows):
        for column in range(columns):
            cost[row][column] = -scores[row, column] if (row, column) in scores else inf
        for column in range(columns, size):
            cost[row][column] = 0.0 if column - columns == row else inf
    for row in range(rows, size):
        for column in range(columns):
            cost[row][column] = 0.0 if row - rows == column else inf
    solver = _Solver(cost)
    pairs = {}
    for row in range(rows):
        column = solver.column_of[row]
        if column < columns:
            margin, other = solver.without(row)
            pairs[row] = column, margin, other if other is not None and other < columns else None
    return pairs


class _Solver:
    """Rows and columns with potentials, matched by shortest augmenting paths."""

    def __init__(self, cost: Sequence[Sequence[float]]) -> None:
        self.cost = cost
        self.size = len(cost)
        self.of_row = [0.0] * self.size
        self.of_column = [0.0] * self.size
        self.row_of: list[int | None] = [None] * self.size
        self.column_of: list[int] = [-1] * self.size
        for row in range(self.size):
            self._add(row)

    def _paths(self, start: int, forbidden: int | None = None, free: int | None = None):
        """Shortest paths over reduced costs from a row that has no column, to the nearest column that has no row."""
        distance, before = [inf] * self.size, [-1] * self.size
        done: list[int] = []
        open_columns = set(range(self.size))
        row, reached = start, 0.0
        while True:
            for column in open_columns:
                if row == start and column == forbidden:
                    continue
                length = reached + self.cost[row][column] - self.of_row[row] - self.of_column[column]
                if length < distance[column]:
                    distance[column], before[column] = length, row
            column = min(open_columns, key=distance.__getitem__, default=-1)
            if column == -1 or distance[column] == inf:
                return None, inf, before, distance, done
            open_columns.discard(column)
            reached = distance[column]
            owner = self.row_of[column]
            if owner is None or column == free:
                return column, reached, before, distance, done
            done.append(column)
            row = owner

    def _add(self, start: int) -> None:
        column, reached, before, distance, done = self._paths(start)
        assert column is not None  # a row can always stay alone
        self.of_row[start] += reached
        for seen in done:
            gain = reached - distance[seen]
            owner = self.row_of[seen]
            assert owner is not None
            self.of_row[owner] += gain
            self.of_column[seen] -= gain
        while True:
            row = before[column]
            self.row_of[column] = row
            self.column_of[row], column = column, self.column_of[row]
            if row == start:
                return

    def without(self, row: int) -> tuple[float, int | None]:
        """By how much the cost rises if a row may not have its column, and which one it has then."""
        own = self.column_of[row]
        column, reached, before, _, _ = self._paths(row, forbidden=own, free=own)
        if column is None:
            return inf, None
        first = column
        while before[first] != row:
            first = self.column_of[before[first]]
        return max(0.0, reached), first

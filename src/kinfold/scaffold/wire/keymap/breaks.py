"""Where calls, tuples and lists break their lines: as `ruff format` (and black) would."""

from __future__ import annotations

import unicodedata
from typing import Any

import libcst as cst
from libcst import matchers

from kinfold.scaffold.wire.literal import Gap, has_comments, indentation, line_break, put_together, take_apart

_PRAGMAS = ("noqa", "type:", "pyright:", "pylint:", "flake8:", "ruff:", "isort:", "nosec")
"""Comments that do not count when a line is measured."""

_TAB = 4


class Arranger:
    """Breaks the lines of expressions in one file.

    What has a comment in it, or a comma behind its last item, is spread: an item a line. All else is put on one line
    if that fits; if not, the arguments of a call are put on a line of their own if that fits; if not, it is spread.
    Breaks that are there already stay as they are, with comments and blank lines.

    Args:
        module: The file.
        width: The longest line.
        step: By how much a line is indented more than what it is a part of.
    """

    def __init__(self, module: cst.Module, width: int, step: str) -> None:
        self.width = width
        self._module = module
        self._step = step

    def arrange(self, node: cst.BaseExpression, *, indent: str, before: int, after: int) -> cst.BaseExpression:
        """An expression with its lines broken.

        Args:
            node: The expression; what is no call, tuple or list stays as it is.
            indent: The indentation of the line on which it begins.
            before: How many columns of that line are in front of it.
            after: How many columns have to follow on the line on which it ends.
        """
        flat = self._flat(node)
        if flat is not None and before + self.columns(flat) + after <= self.width:
            return flat
        if not isinstance(node, cst.Call | cst.Tuple | cst.List):
            return node
        items, gaps, trailing_comma = take_apart(node)
        if not items:
            return node
        inner = indent + self._step
        if isinstance(node, cst.Call) and not trailing_comma and not any(map(has_comments, gaps)):
            on_a_line = self._on_a_line(items, inner)
            if on_a_line:
                spaces = [cst.SimpleWhitespace(" ") for _ in on_a_line[1:]]
                new_gaps = [line_break(inner), *spaces, line_break(indent)]
                return put_together(node, on_a_line, new_gaps, trailing_comma=False)
        return self._spread(node, indent)

    def is_arranged(self, node: cst.BaseExpression, *, indent: str, before: int, after: int) -> bool:
        """Whether arranging would change nothing."""
        return self.code(self.arrange(node, indent=indent, before=before, after=after)) == self.code(node)

    def fits(self, node: cst.CSTNode, *, before: int, after: int) -> bool:
        """Whether the lines of a node are narrow enough as they are."""
        first, *others = self.code(node).split("\n")
        lines = [before + columns(first), *map(columns, others)]
        return max([*lines[:-1], lines[-1] + after]) <= self.width

    def code(self, node: cst.CSTNode) -> str:
        return self._module.code_for_node(node).replace("\r\n", "\n")

    def columns(self, node: cst.CSTNode) -> int:
        """The width of a node on one line."""
        return columns(self.code(node))

    def _on_a_line(self, items: list[Any], indent: str) -> list[Any] | None:
        """The items as they stand on a line of their own; a single one may break."""
        if len(items) == 1:
            return [self._item(items[0], indent, after=0)]
        flat = [self._flat_item(item) for item in items]
        if None in flat:
            return None
        length = columns(indent) + sum(map(self.columns, flat)) + 2 * (len(flat) - 1)
        return flat if length <= self.width else None

    def _spread(self, node: cst.BaseExpression, indent: str) -> cst.BaseExpression:
        """An item a line, with a comma behind the last one."""
        items, gaps, _ = take_apart(node)
        inner = indentation(gaps, indent + self._step).value if _is_broken(gaps[0]) else indent + self._step
        comments = [gap_comment_columns(gap) for gap in gaps[1:]]
        new = [self._item(item, inner, 1 + comment) for item, comment in zip(items, comments, strict=True)]
        breaks = [*(line_break(inner) for _ in items), line_break(indent)]
        new_gaps = [gap if _is_broken(gap) else new_gap for gap, new_gap in zip(gaps, breaks, strict=True)]
        return put_together(node, new, new_gaps, trailing_comma=True)

    def _item(self, item: Any, indent: str, after: int) -> Any:
        """An item on a line of its own."""
        bare = item.with_changes(value=cst.Name("_"), comma=cst.MaybeSentinel.DEFAULT)
        before = columns(indent) + self.columns(bare) - 1
        return item.with_changes(value=self.arrange(item.value, indent=indent, before=before, after=after))

    def _flat(self, node: cst.BaseExpression) -> Any:
        """An expression on one line; None if it cannot be put on one."""
        if isinstance(node, cst.Call | cst.Tuple | cst.List):
            items, gaps, trailing_comma = take_apart(node)
            flat = [self._flat_item(item) for item in items]
            magic_comma = items and trailing_comma and not (isinstance(node, cst.Tuple) and len(items) == 1)
            if magic_comma or any(map(has_comments, gaps)) or None in flat:
                return None
            spaces = [cst.SimpleWhitespace(" " if 0 < at < len(items) else "") for at in range(len(gaps))]
            return put_together(node, flat, spaces, trailing_comma=False)
        return None if "\n" in self.code(node) or matchers.findall(node, matchers.Comment()) else node

    def _flat_item(self, item: Any) -> Any:
        value = self._flat(item.value)
        return None if value is None else item.with_changes(value=value, comma=cst.MaybeSentinel.DEFAULT)


def room(module: cst.Module, line: cst.SimpleStatementLine, statement: cst.CSTNode) -> tuple[int, int]:
    """The columns in front of and behind the value of a statement at the top level."""
    without_value = module.code_for_node(statement.with_changes(value=cst.Name("_"))).rstrip("; ")
    return columns(without_value) - 1, comment_columns(line.trailing_whitespace.comment)


def columns(text: str) -> int:
    """The width of a line."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide + (_TAB - 1) * text.count("\t")


def comment_columns(comment: cst.Comment | None) -> int:
    """How much a comment at the end of a line adds to it: nothing if it is for tools."""
    if comment is None or comment.value.lstrip("# ").lower().startswith(_PRAGMAS):
        return 0
    return 2 + len(comment.value)


def gap_comment_columns(gap: Gap) -> int:
    """How much the comment at the beginning of a gap adds to the line."""
    return comment_columns(gap.first_line.comment) if isinstance(gap, cst.ParenthesizedWhitespace) else 0


def _is_broken(gap: Gap) -> bool:
    return isinstance(gap, cst.ParenthesizedWhitespace)

"""What stands in a pair of brackets (entries, arguments, imported names), and the gaps around it.

There is a gap in front of each item and one in front of the closing bracket. It holds white space, the comment at
the end of a line, and lines of comments. The comment at the end of a line belongs to what stands on that line. The
lines right in front of an item, up to the nearest blank one, belong to that item; all others to the brackets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias, TypeVar

import libcst as cst

Gap: TypeAlias = cst.SimpleWhitespace | cst.ParenthesizedWhitespace  # within a line, or with line breaks

Item: TypeAlias = cst.BaseDictElement | cst.BaseElement | cst.Arg | cst.ImportAlias

Bracketed = TypeVar("Bracketed", bound=cst.CSTNode)
"""A dict, list, tuple, call or `from` import; tuples and imports have to stand in parentheses."""

_Space: TypeAlias = cst.BaseParenthesizableWhitespace

_NOTHING = cst.SimpleWhitespace("")


def insert(node: Bracketed, index: int, item: Item, *, indent: str) -> Bracketed:
    """Insert `item` as number `index`.

    It comes right behind the item in front of it; with none in front, behind the lines that belong to the brackets.
    Empty brackets are spread over several lines. A trailing comma stays, or stays away; the second of two items that
    are spread gets one, as formatters leave it away only behind a single item.

    Args:
        node: What has the brackets.
        index: From 0 up to the number of items.
        item: The new one; its comma is of no account.
        indent: The indentation of an item, used where nothing in the brackets shows it.
    """
    items, gaps, trailing_comma = take_apart(node)
    gaps[index : index + 1] = _split(gaps, index, indent)
    items.insert(index, item)
    second = len(items) == 2 and isinstance(gaps[-1], cst.ParenthesizedWhitespace)
    return put_together(node, items, gaps, trailing_comma=second or trailing_comma)


def remove(node: Bracketed, index: int) -> Bracketed:
    """Remove item number `index` and the comments that belong to it."""
    items, gaps, trailing_comma = take_apart(node)
    del items[index]
    gaps[index : index + 2] = [_merge(gaps, index)]
    return put_together(node, items, gaps, trailing_comma=trailing_comma)


def replace_item(node: Bracketed, index: int, item: Item) -> Bracketed:
    """Put another item in the place of item number `index`."""
    items, gaps, trailing_comma = take_apart(node)
    items[index] = item
    return put_together(node, items, gaps, trailing_comma=trailing_comma)


def spread(node: Bracketed, *, indent: str) -> Bracketed:
    """Put every item in brackets without comments on a line of its own, with a trailing comma."""
    items, _, _ = take_apart(node)
    gaps: list[Gap] = [*(line_break(indent) for _ in items), line_break("")]
    return put_together(node, items, gaps, trailing_comma=True)


def take_apart(node: cst.CSTNode) -> tuple[list[Any], list[Gap], bool]:
    """The items, the gaps, and whether there is a trailing comma (there is, if there are no items)."""
    items, opening, closing = _inside(node)
    commas = [item.comma for item in items]
    behind = [comma.whitespace_after for comma in commas if isinstance(comma, cst.Comma)]
    trailing_comma = len(behind) == len(items)
    if items and not (trailing_comma and not _is_nothing(behind[-1])):  # libcst puts the last gap in either place
        behind[len(items) - 1 :] = [closing]
    return items, [gap for gap in (opening, *behind) if isinstance(gap, Gap)], trailing_comma


def put_together(node: Bracketed, items: Sequence[Item], gaps: Sequence[Gap], *, trailing_comma: bool) -> Bracketed:
    """The inverse of `take_apart`: one gap more than items, or a single one for none."""
    opening, *behind = gaps
    closing = behind.pop() if behind else _NOTHING
    new = [_with_comma(item, gap) for item, gap in zip(items[:-1], behind, strict=True)]
    for last in items[-1:]:
        with_comma = _with_comma(last, _NOTHING)
        needed = isinstance(node, cst.Tuple) and len(items) == 1
        stays = trailing_comma or needed or has_comments(with_comma.comma.whitespace_before)
        new.append(with_comma if stays else last.with_changes(comma=cst.MaybeSentinel.DEFAULT))
    return _with_inside(node, new, opening, closing)


def has_comments(gap: cst.BaseParenthesizableWhitespace) -> bool:
    return isinstance(gap, cst.ParenthesizedWhitespace) and any(
        line.comment for line in (gap.first_line, *gap.empty_lines)
    )


def line_break(indent: str) -> cst.ParenthesizedWhitespace:
    return cst.ParenthesizedWhitespace(indent=True, last_line=cst.SimpleWhitespace(indent))


def indentation(gaps: Sequence[Gap], default: str) -> cst.SimpleWhitespace:
    """The indentation of an item, as another item or a comment shows it."""
    breaks = [gap for gap in gaps if isinstance(gap, cst.ParenthesizedWhitespace)]
    items = [gap.last_line for gap in breaks if gap is not gaps[-1]]
    comments = [line.whitespace for gap in breaks for line in gap.empty_lines if line.comment]
    return next(iter([*items, *comments]), cst.SimpleWhitespace(default))


def _inside(node: cst.CSTNode) -> tuple[list[Item], _Space, _Space]:
    """The items, and what stands behind the opening and in front of the closing bracket."""
    match node:
        case cst.Dict():
            return list(node.elements), node.lbrace.whitespace_after, node.rbrace.whitespace_before
        case cst.List():
            return list(node.elements), node.lbracket.whitespace_after, node.rbracket.whitespace_before
        case cst.Tuple():
            return list(node.elements), node.lpar[-1].whitespace_after, node.rpar[0].whitespace_before
        case cst.ImportFrom(names=[*names], lpar=cst.LeftParen() as left, rpar=cst.RightParen() as right):
            return list(names), left.whitespace_after, right.whitespace_before
        case cst.Call(args=[*others, last]):
            bare = last.with_changes(whitespace_after_arg=_NOTHING)
            return [*others, bare], node.whitespace_before_args, last.whitespace_after_arg
        case cst.Call():
            return [], node.whitespace_before_args, _NOTHING
    raise TypeError(type(node).__name__)


def _with_inside(node: Bracketed, items: list[Any], opening: Gap, closing: Gap) -> Bracketed:
    match node:
        case cst.Dict():
            left, right = node.lbrace, node.rbrace
            changes = {"elements": items, "lbrace": _opened(left, opening), "rbrace": _closed(right, closing)}
        case cst.List():
            left, right = node.lbracket, node.rbracket
            changes = {"elements": items, "lbracket": _opened(left, opening), "rbracket": _closed(right, closing)}
        case cst.Tuple():
            lpar = [*node.lpar[:-1], _opened(node.lpar[-1], opening)]
            changes = {"elements": items, "lpar": lpar, "rpar": [_closed(node.rpar[0], closing), *node.rpar[1:]]}
        case cst.ImportFrom(lpar=cst.LeftParen() as left, rpar=cst.RightParen() as right):
            changes = {"names": items, "lpar": _opened(left, opening), "rpar": _closed(right, closing)}
        case _:
            args = [*items[:-1], *(last.with_changes(whitespace_after_arg=closing) for last in items[-1:])]
            if args and isinstance(args[-1].comma, cst.Comma):
                args[-1] = _with_comma(items[-1], closing)
            changes = {"args": args, "whitespace_before_args": opening}
    return node.with_changes(**changes)


def _opened(bracket: cst.CSTNode, gap: Gap) -> cst.CSTNode:
    return bracket.with_changes(whitespace_after=gap)


def _closed(bracket: cst.CSTNode, gap: Gap) -> cst.CSTNode:
    return bracket.with_changes(whitespace_before=gap)


def _with_comma(item: Any, after: Gap) -> Any:
    comma = item.comma if isinstance(item.comma, cst.Comma) else cst.Comma()
    return item.with_changes(comma=comma.with_changes(whitespace_after=after))


def _is_nothing(gap: cst.CSTNode) -> bool:
    return isinstance(gap, cst.SimpleWhitespace) and not gap.value


def _split(gaps: list[Gap], index: int, indent: str) -> tuple[Gap, Gap]:
    """The gaps in front of and behind a new item in gap number `index`."""
    gap = gaps[index]
    first, only = index == 0, len(gaps) == 1
    if isinstance(gap, cst.SimpleWhitespace):
        if only:
            return line_break(indent), line_break("")
        return (gap, _between(gaps)) if first else (_between(gaps), gap)
    lines = gap.empty_lines
    kept = len(lines) if only else _count_detached(gap) if first else 0
    front = gap.with_changes(empty_lines=lines[:kept], last_line=indentation(gaps, indent))
    return front, _bare(gap).with_changes(empty_lines=lines[kept:])


def _merge(gaps: list[Gap], index: int) -> Gap:
    """What the gaps in front of and behind item number `index` become when it goes."""
    before, after = gaps[index : index + 2]
    first, last = index == 0, index == len(gaps) - 2
    if isinstance(before, cst.SimpleWhitespace) or isinstance(after, cst.SimpleWhitespace):
        kept, other = (before, after) if first else (after, before)
        return other if has_comments(other) and not has_comments(kept) else kept
    upper = list(before.empty_lines if first and last else before.empty_lines[: _count_detached(before)])
    lines = _joined(upper, list(after.empty_lines), first=first, last=last)
    merged = after.with_changes(first_line=before.first_line, empty_lines=lines)
    return merged if has_comments(merged) or not (first and last) else cst.SimpleWhitespace("")


def _joined(upper: list[cst.EmptyLine], lower: list[cst.EmptyLine], *, first: bool, last: bool) -> list[cst.EmptyLine]:
    """Two runs of lines in one, without the blank lines that would now stand next to a brace or to each other."""
    while lower and not lower[0].comment and (not upper[-1].comment if upper else first):
        del lower[0]
    while upper and not upper[-1].comment and last and not lower:
        del upper[-1]
    return upper + lower


def _count_detached(gap: cst.ParenthesizedWhitespace) -> int:
    """How many lines of a gap do not belong to the item behind it: all up to the last blank one."""
    return max((number for number, line in enumerate(gap.empty_lines, start=1) if not line.comment), default=0)


def _between(gaps: list[Gap]) -> Gap:
    """What separates two items: a line break such as there is already, or a space."""
    breaks = [gap for gap in (*gaps[1:-1], *gaps[:-1]) if isinstance(gap, cst.ParenthesizedWhitespace)]
    return _bare(breaks[0]) if breaks else cst.SimpleWhitespace(" ")


def _bare(gap: cst.ParenthesizedWhitespace) -> cst.ParenthesizedWhitespace:
    """The line break alone."""
    first_line = gap.first_line.with_changes(whitespace=cst.SimpleWhitespace(""), comment=None)
    return gap.with_changes(first_line=first_line, empty_lines=())

"""The entries of a dict literal, and the gaps around them.

There is a gap in front of each entry and one in front of the closing brace. It holds white space, the comment at
the end of a line, and lines of comments. The comment at the end of a line belongs to what stands on that line. The
lines right in front of an entry, up to the nearest blank one, belong to that entry; all others to the literal.
"""

from __future__ import annotations

from typing import TypeAlias

import libcst as cst

_Gap: TypeAlias = cst.SimpleWhitespace | cst.ParenthesizedWhitespace  # within a line, or with line breaks


def insert(literal: cst.Dict, index: int, key: str, value: str, *, indent: str) -> cst.Dict:
    """Insert the entry `key: value`, in the quotes of the other entries, as number `index`.

    It comes right behind the entry in front of it; with none in front, behind the lines that belong to the literal.
    An empty literal is spread over several lines. A trailing comma stays, or stays away; the second of two entries that
    are spread gets one, as formatters leave it away only behind a single entry.

    Args:
        literal: The dict literal.
        index: From 0 up to the number of entries.
        key: A string that needs no escapes.
        value: A string that needs no escapes.
        indent: The indentation of an entry, used where nothing in the literal shows it.
    """
    entries, gaps = _take_apart(literal)
    quote = _quote(literal)
    entry = cst.DictElement(cst.SimpleString(f"{quote}{key}{quote}"), cst.SimpleString(f"{quote}{value}{quote}"))
    gaps[index : index + 1] = _split(gaps, index, indent)
    entries.insert(index, entry)
    second = len(entries) == 2 and isinstance(gaps[-1], cst.ParenthesizedWhitespace)
    return _put_together(literal, entries, gaps, trailing_comma=second or _has_trailing_comma(literal))


def remove(literal: cst.Dict, index: int) -> cst.Dict:
    """Remove entry number `index` and the comments that belong to it."""
    entries, gaps = _take_apart(literal)
    del entries[index]
    gaps[index : index + 2] = [_merge(gaps, index)]
    return _put_together(literal, entries, gaps, trailing_comma=_has_trailing_comma(literal))


def spread(literal: cst.Dict, *, indent: str) -> cst.Dict:
    """Put every entry of a literal without comments on a line of its own, with a trailing comma."""
    entries, _ = _take_apart(literal)
    gaps: list[_Gap] = [*(_line_break(indent) for _ in entries), _line_break("")]
    return _put_together(literal, entries, gaps, trailing_comma=True)


def _take_apart(literal: cst.Dict) -> tuple[list[cst.BaseDictElement], list[_Gap]]:
    entries = list(literal.elements)
    commas = [entry.comma for entry in entries[:-1]]
    inner = [comma.whitespace_after for comma in commas if isinstance(comma, cst.Comma)]
    closing = [literal.rbrace.whitespace_before] if entries else []  # libcst puts all of an empty literal's in front
    gaps = [literal.lbrace.whitespace_after, *inner, *closing]
    return entries, [gap for gap in gaps if isinstance(gap, _Gap)]


def _put_together(
    literal: cst.Dict, entries: list[cst.BaseDictElement], gaps: list[_Gap], *, trailing_comma: bool
) -> cst.Dict:
    opening, *inner = gaps
    closing = inner.pop() if inner else cst.SimpleWhitespace("")
    elements = [entry.with_changes(comma=_comma(entry, gap)) for entry, gap in zip(entries[:-1], inner, strict=True)]
    for last in entries[-1:]:
        comma = _comma(last, cst.SimpleWhitespace(""))
        stays = trailing_comma or _has_comments(comma.whitespace_before)
        elements.append(last.with_changes(comma=comma if stays else cst.MaybeSentinel.DEFAULT))
    return literal.with_changes(
        lbrace=literal.lbrace.with_changes(whitespace_after=opening),
        elements=elements,
        rbrace=literal.rbrace.with_changes(whitespace_before=closing),
    )


def _comma(entry: cst.BaseDictElement, after: _Gap) -> cst.Comma:
    comma = entry.comma if isinstance(entry.comma, cst.Comma) else cst.Comma()
    return comma.with_changes(whitespace_after=after)


def _has_trailing_comma(literal: cst.Dict) -> bool:
    return not literal.elements or isinstance(literal.elements[-1].comma, cst.Comma)


def _quote(literal: cst.Dict) -> str:
    keys = (entry.key for entry in literal.elements if isinstance(entry, cst.DictElement))
    return next((key.quote[0] for key in keys if isinstance(key, cst.SimpleString)), '"')


def _split(gaps: list[_Gap], index: int, indent: str) -> tuple[_Gap, _Gap]:
    """The gaps in front of and behind a new entry in gap number `index`."""
    gap = gaps[index]
    first, only = index == 0, len(gaps) == 1
    if isinstance(gap, cst.SimpleWhitespace):
        if only:
            return _line_break(indent), _line_break("")
        return (gap, _between(gaps)) if first else (_between(gaps), gap)
    lines = gap.empty_lines
    kept = len(lines) if only else _count_detached(gap) if first else 0
    front = gap.with_changes(empty_lines=lines[:kept], last_line=_indentation(gaps, indent))
    return front, _bare(gap).with_changes(empty_lines=lines[kept:])


def _merge(gaps: list[_Gap], index: int) -> _Gap:
    """What the gaps in front of and behind entry number `index` become when it goes."""
    before, after = gaps[index : index + 2]
    first, last = index == 0, index == len(gaps) - 2
    if isinstance(before, cst.SimpleWhitespace) or isinstance(after, cst.SimpleWhitespace):
        kept, other = (before, after) if first else (after, before)
        return other if _has_comments(other) and not _has_comments(kept) else kept
    upper = list(before.empty_lines if first and last else before.empty_lines[: _count_detached(before)])
    lines = _joined(upper, list(after.empty_lines), first=first, last=last)
    merged = after.with_changes(first_line=before.first_line, empty_lines=lines)
    return merged if _has_comments(merged) or not (first and last) else cst.SimpleWhitespace("")


def _joined(upper: list[cst.EmptyLine], lower: list[cst.EmptyLine], *, first: bool, last: bool) -> list[cst.EmptyLine]:
    """Two runs of lines in one, without the blank lines that would now stand next to a brace or to each other."""
    while lower and not lower[0].comment and (not upper[-1].comment if upper else first):
        del lower[0]
    while upper and not upper[-1].comment and last and not lower:
        del upper[-1]
    return upper + lower


def _count_detached(gap: cst.ParenthesizedWhitespace) -> int:
    """How many lines of a gap do not belong to the entry behind it: all up to the last blank one."""
    return max((number for number, line in enumerate(gap.empty_lines, start=1) if not line.comment), default=0)


def _has_comments(gap: cst.BaseParenthesizableWhitespace) -> bool:
    return isinstance(gap, cst.ParenthesizedWhitespace) and any(
        line.comment for line in (gap.first_line, *gap.empty_lines)
    )


def _between(gaps: list[_Gap]) -> _Gap:
    """What separates two entries: a line break such as the literal has already, or a space."""
    breaks = [gap for gap in (*gaps[1:-1], *gaps[:-1]) if isinstance(gap, cst.ParenthesizedWhitespace)]
    return _bare(breaks[0]) if breaks else cst.SimpleWhitespace(" ")


def _indentation(gaps: list[_Gap], default: str) -> cst.SimpleWhitespace:
    """The indentation of an entry, as another entry or a comment shows it."""
    breaks = [gap for gap in gaps if isinstance(gap, cst.ParenthesizedWhitespace)]
    entries = [gap.last_line for gap in breaks if gap is not gaps[-1]]
    comments = [line.whitespace for gap in breaks for line in gap.empty_lines if line.comment]
    return next(iter([*entries, *comments]), cst.SimpleWhitespace(default))


def _bare(gap: cst.ParenthesizedWhitespace) -> cst.ParenthesizedWhitespace:
    """The line break alone."""
    first_line = gap.first_line.with_changes(whitespace=cst.SimpleWhitespace(""), comment=None)
    return gap.with_changes(first_line=first_line, empty_lines=())


def _line_break(indent: str) -> cst.ParenthesizedWhitespace:
    return cst.ParenthesizedWhitespace(indent=True, last_line=cst.SimpleWhitespace(indent))

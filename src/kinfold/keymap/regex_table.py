"""Renaming by a table of regular expressions, in bounded time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from time import monotonic
from typing import Any

from kinfold.errors import KeyMapError

_LITERAL = r"(?:[A-Za-z_/:-]|\\[./:_-])"
_NUMBER = r"(?:\\d|\[0-9\])\+"
_RUN = rf"(?:{_NUMBER}|\((?:\?P<\w+>)?{_NUMBER}\))"
_LINEAR = re.compile(rf"\^[0-9]*(?:{_LITERAL}[0-9]*|{_RUN}(?={_LITERAL}))*(?:{_RUN})?\$?", re.ASCII)
"""Expressions that can match in one way only: from the start, with numbers that end where something else begins."""

_BRACE = re.compile(r"\\N\{[^}]*\}|\\.|\{\d*(?:,\d*)?\}|\{", re.DOTALL)
_COUNT = re.compile(r"\{(\d*),?(\d*)\}")
_POSIX_CLASS = re.compile(r"\[:\^?\w+:\]")
_MOST_REPEATS = 10_000

Sub = Callable[[str, float], str]
"""Replaces all matches in a name; raises a `TimeoutError` if that takes longer than so many seconds."""


class RegexTable:
    """A table of regular expressions, of which the first that changes a name says what it is called.

    Expressions are those of Python's `re`. One that could take long is run by the `regex` package, which can be
    stopped; the few in which the two differ are refused.

    Args:
        table: Replacements, as `re.sub` takes them, by expression.

    Raises:
        KeyMapError: Lists every expression and replacement that is malformed.
    """

    def __init__(self, table: Mapping[str, str]) -> None:
        faults: list[str] = []
        self._entries: list[_Entry] = []
        for pattern, replacement in table.items():
            try:
                self._entries.append(_Entry(pattern, _compiled(pattern, replacement)))
            except KeyMapError as error:
                faults.append(error.summary)
        if faults:
            raise KeyMapError("The table of regular expressions is malformed:", faults=faults)

    def rename(self, names: Iterable[str], *, timeout: float) -> dict[str, str]:
        """What each name is called.

        Args:
            names: The names.
            timeout: Seconds for all of them.

        Returns:
            The old name of each new one.

        Raises:
            KeyMapError: Two names become one, or what a name becomes would be changed again, so that what has been
                converted already could not be told from what has not; lists all. Or it takes too long: says where.
        """
        end = monotonic() + timeout
        faults: list[str] = []
        renamed: dict[str, str] = {}
        unstable: dict[str, list[str]] = {}  # by expression, which is one mistake whatever it meets
        try:
            for name in names:
                new, entry = self._changed(name, end)
                if new in renamed:
                    faults.append(f"{renamed[new]} and {name} both become {new}")
                renamed.setdefault(new, name)
                again, other = (new, None) if entry is None else self._changed(new, end)
                if other is not None:
                    unstable.setdefault(other.pattern, []).append(f"{name} becomes {new}, and that {again}")
        except _TooLong as error:
            raise KeyMapError(
                f"The table of regular expressions took longer than {timeout} seconds: {error}",
                hint="Rewrite the expression so that it can match in one way only, as ^layers\\.([0-9]+)\\. can; or "
                "give more time: `timeout=`.",
            ) from None
        for pattern, (first, *rest) in unstable.items():
            more = f" ({len(rest)} more are changed twice)" if rest else ""
            faults.append(f"{pattern!r} would change what has been converted again: {first}{more}")
        if faults:
            hint = "Let each expression begin with ^ and name what is there, so that it does not fit what is here."
            raise KeyMapError("The names cannot be converted:", faults=faults, hint=hint if unstable else None)
        return renamed

    def _changed(self, name: str, end: float) -> tuple[str, _Entry | None]:
        """What a name becomes, and the expression that says so; None if it stays."""
        for entry in self._entries:
            try:
                if (seconds := end - monotonic()) <= 0:
                    raise TimeoutError
                new = entry.sub(name, seconds)
            except TimeoutError:
                raise _TooLong(f"it was trying {entry.pattern!r} on {name!r}.") from None
            if new != name:
                return new, entry
        return name, None


@dataclass(frozen=True, slots=True)
class _Entry:
    """One expression, and what it does to a name."""

    pattern: str
    sub: Sub


class _TooLong(Exception):
    """Says where the time was spent."""


def _compiled(pattern: str, replacement: str) -> Sub:
    if not isinstance(pattern, str) or not isinstance(replacement, str):
        raise KeyMapError(f"{pattern!r}: {replacement!r} are no two strings")
    try:
        known = re.compile(pattern)
    except (re.error, OverflowError, RecursionError, ValueError) as error:
        raise KeyMapError(f"{pattern!r} is no regular expression: {error}") from error
    names = {number: name for name, number in known.groupindex.items()}
    groups = (f"(?P<{names[n]}>)" if n in names else "()" for n in range(1, known.groups + 1))
    try:
        re.sub("".join(groups), replacement, "")
    except (re.error, IndexError) as error:
        raise KeyMapError(f"{replacement!r} cannot replace {pattern!r}: {error}") from error
    if _LINEAR.fullmatch(pattern):
        return lambda name, seconds: known.sub(replacement, name) if known.search(name) else name
    return _stoppable(pattern, replacement)


def _stoppable(pattern: str, replacement: str) -> Sub:
    if found := _POSIX_CLASS.search(pattern):
        raise KeyMapError(f"{pattern!r} holds {found[0]}, which `re` does not know as a class: write its characters")
    counts = [int(most or least or 1) for least, most in _COUNT.findall(pattern)]
    if prod(counts) > _MOST_REPEATS:  # which regex writes out
        raise KeyMapError(f"{pattern!r} repeats up to {prod(counts)} times; {_MOST_REPEATS} are allowed")
    import regex

    try:
        compiled: Any = regex.compile(_BRACE.sub(_escaped, pattern), regex.VERSION0)
    except (regex.error, RecursionError) as error:
        raise KeyMapError(f"{pattern!r} is no regular expression: {error}") from error

    def sub(name: str, seconds: float) -> str:
        # Looked for first, since most expressions are not in most names and that is known in half the time.
        found = compiled.search(name, timeout=seconds)
        return name if found is None else compiled.sub(replacement, name, timeout=seconds)

    return sub


def _escaped(found: re.Match[str]) -> str:
    """A brace that counts nothing stands for itself in `re`; in `regex` it would begin an approximate match."""
    return "\\{" if found[0] == "{" else found[0]

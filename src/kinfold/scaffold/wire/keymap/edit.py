"""Editing the key maps of a family's `loader.py`, rule by rule.

What an edit keeps stays byte for byte, with its comments. A file that `ruff format` has formatted stays formatted,
any other keeps the breaks that it has.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import libcst as cst

from kinfold.errors import WiringError, nearest
from kinfold.scaffold.wire.edit import encode, find_binding, parse_module
from kinfold.scaffold.wire.keymap.breaks import Arranger, columns, gap_comment_columns, room
from kinfold.scaffold.wire.keymap.imports import check_names, update_imports
from kinfold.scaffold.wire.keymap.merge import Merger
from kinfold.scaffold.wire.keymap.read import KeyMapSource, read_key_maps
from kinfold.scaffold.wire.keymap.rule_text import called_names, parse_rule, same_call
from kinfold.scaffold.wire.literal import indentation, insert, remove, replace_item, spread, take_apart


@dataclass(frozen=True, slots=True)
class Keep:
    """The rule that stands at a position, as it is."""

    position: int


@dataclass(frozen=True, slots=True)
class Change:
    """The rule that stands at a position, changed so that it is the one of `text`."""

    position: int
    text: str


@dataclass(frozen=True, slots=True)
class Add:
    """A new rule, as `Rule.text` has it."""

    text: str


Edit: TypeAlias = Keep | Change | Add


def edit_key_map(
    source: bytes, layout: str, edits: Sequence[Edit], *, place: str = "loader.py", width: int = 88
) -> bytes:
    """Make the rules of a key map those that `edits` lists, in this order.

    A rule that is in none of them goes, with the comments that belong to it: the one behind it, and the lines right in
    front of it. A new one comes right behind the one before it in the list. Of a changed one only what differs is
    replaced. Names that the rules need are imported, and those that they alone have needed no longer.

    Args:
        source: The content of the file.
        layout: What the converter calls the key map.
        edits: Rules that are there already have to be in the order in which they stand.
        place: What error messages call the file.
        width: The longest line.

    Returns:
        The new content; `source` itself if nothing changes.

    Raises:
        WiringError: There is no such key map, or it cannot be edited safely.
        ValueError: The positions do not rise, or there is no such rule; or a text is no call of a rule.
    """
    key_map = _editable(source, layout, place)
    edits = _checked(edits, key_map)
    if edits == [Keep(rule.position) for rule in key_map.rules]:
        return source
    new_calls = [parse_rule(edit.text) for edit in edits if not isinstance(edit, Keep)]
    called = {name for call in new_calls for name in called_names(call)}
    check_names(source, called, place)
    module = parse_module(source, place)
    line, call = find_binding(module, key_map.variable, cst.Call)
    dropped = called_names(ast.parse(module.code_for_node(call)))
    module = _Editor(module, line, call, width).edited(edits)
    return encode(update_imports(module, called, dropped, place=place, width=width), place)


def _editable(source: bytes, layout: str, place: str) -> KeyMapSource:
    """The key map of a layout.

    Raises:
        WiringError: There is none, or it cannot be edited safely.
    """
    key_maps = read_key_maps(source, place=place)
    if layout not in key_maps:
        raise WiringError(f"{place} has no key map for {layout!r}.", hint=nearest(layout, key_maps))
    if key_maps[layout].faults:
        raise WiringError(
            f"The key map for {layout!r} in {place} cannot be edited safely:",
            faults=key_maps[layout].faults,
            hint="It has to be a variable at the top level, bound once to a call of KeyMap with plain calls of rules: "
            f'{layout}_key_map = KeyMap(rename("a", "b")).',
        )
    return key_maps[layout]


def _checked(edits: Sequence[Edit], key_map: KeyMapSource) -> list[Edit]:
    """The edits, without changes to what is there already."""
    positions = [edit.position for edit in edits if not isinstance(edit, Add)]
    known = range(len(key_map.rules))
    if positions != sorted(set(positions)) or not set(positions) <= set(known):
        raise ValueError(f"the positions {positions} do not rise, or are not all in {known}")
    return [
        Keep(edit.position)
        if isinstance(edit, Change) and same_call(edit.text, key_map.rules[edit.position].text)
        else edit
        for edit in edits
    ]


class _Editor:
    """Edits the rules of one call of `KeyMap`."""

    def __init__(self, module: cst.Module, line: cst.SimpleStatementLine, call: cst.Call, width: int) -> None:
        self._module = module
        self._call = call
        self._statement = next(statement for statement in line.body if getattr(statement, "value", None) is call)
        self._before, self._after = room(module, line, self._statement)
        self._rules, gaps, _ = take_apart(call)
        broken = isinstance(gaps[0], cst.ParenthesizedWhitespace)
        self._step = indentation(gaps, module.default_indent).value if broken else module.default_indent
        self._merger = Merger(module, call, self._step)
        self._arranger = Arranger(module, width, self._step)

    def edited(self, edits: Sequence[Edit]) -> cst.Module:
        """The file with the edits."""
        new, rows = self._with_edits(edits)
        changed = {edit.position for edit in edits if isinstance(edit, Change)}
        at = {"before": self._before, "after": self._after}
        if self._arranger.is_arranged(self._call, indent="", **at):
            new = self._arranger.arrange(new, indent="", **at)
        else:
            if "\n" not in self._arranger.code(new) and not self._arranger.fits(new, **at):
                new = spread(new, indent=self._step)
            new = self._with_arranged_rules(new, rows, changed)
        return self._module.with_deep_changes(self._statement, value=new)

    def _with_edits(self, edits: Sequence[Edit]) -> tuple[cst.Call, list[int | None]]:
        """The call, and for each of its rules the position that it has had; new ones are not broken yet."""
        call = self._call
        rows: list[int | None] = [*range(len(self._rules))]
        at = 0
        for edit in edits:
            match edit:
                case Add(text):
                    call = insert(call, at, cst.Arg(self._merger.parse(text)), indent=self._step)
                    rows.insert(at, None)
                case Change(position, text):
                    at = rows.index(position)
                    old = self._rules[position]
                    value = self._merger.merge(old.value, self._merger.parse(text))
                    call = replace_item(call, at, old.with_changes(value=value))
                case Keep(position):
                    at = rows.index(position)
            at += 1
        stay = {None, *(edit.position for edit in edits if not isinstance(edit, Add))}
        for at in reversed(range(len(rows))):
            if rows[at] not in stay:
                call = remove(call, at)
                del rows[at]
        return call, rows

    def _with_arranged_rules(self, call: cst.Call, rows: Sequence[int | None], changed: set[int]) -> cst.Call:
        """The call with new rules broken, and changed ones if the old ones were, or if they are too wide now."""
        rules, gaps, _ = take_apart(call)
        for at, (row, rule, gap, behind) in enumerate(zip(rows, rules, gaps[:-1], gaps[1:], strict=True)):
            if (row is None or row in changed) and isinstance(gap, cst.ParenthesizedWhitespace):
                indent = gap.last_line.value
                where = {"before": columns(indent), "after": 1 + gap_comment_columns(behind)}
                arranged = row is None or self._arranger.is_arranged(self._rules[row].value, indent=indent, **where)
                if arranged or not self._arranger.fits(rule.value, **where):
                    value = self._arranger.arrange(rule.value, indent=indent, **where)
                    call = replace_item(call, at, rule.with_changes(value=value))
        return call

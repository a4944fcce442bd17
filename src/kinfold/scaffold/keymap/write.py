"""Writing derived and regenerated key maps into a family's `loader.py`."""

from __future__ import annotations

from collections.abc import Sequence

from kinfold.errors import WiringError
from kinfold.keymap.rules import Rule
from kinfold.scaffold.keymap.family import Family
from kinfold.scaffold.keymap.regen import Regenerated
from kinfold.scaffold.render.files import line_length
from kinfold.scaffold.transaction import Transaction
from kinfold.scaffold.wire.keymap import Add, Change, Keep, add_key_map, edit_key_map, read_key_maps, same_call


def added_map(family: Family, layout: str, rules: Sequence[Rule]) -> Transaction:
    """A transaction that gives a family a new key map."""
    project = family.require_project()
    source = (project.root / family.path).read_bytes()
    width = line_length(family.path, project.root)
    texts = [rule.text for rule in rules]
    docstring = f"The names of {layout} to ours."
    new = add_key_map(source, layout, texts, docstring=docstring, place=str(family.path), width=width)
    return _transaction(family, layout, rules, new)


def edited_map(family: Family, layout: str, outcome: Regenerated) -> Transaction:
    """A transaction that makes a family's key map what was regenerated."""
    project = family.require_project()
    source = (project.root / family.path).read_bytes()
    old = family.key_map(layout).rules
    edits = [
        Add(row.rule.text)
        if row.position is None
        else Keep(row.position)
        if row.rule == old[row.position]
        else Change(row.position, row.rule.text)
        for row in outcome.rows
    ]
    width = line_length(family.path, project.root)
    new = edit_key_map(source, layout, edits, place=str(family.path), width=width)
    return _transaction(family, layout, [row.rule for row in outcome.rows], new)


def _transaction(family: Family, layout: str, rules: Sequence[Rule], new: bytes) -> Transaction:
    """The transaction, once the file says what was certified."""
    written = read_key_maps(new, place=str(family.path))[layout].rules
    same = len(written) == len(rules) and all(same_call(a.text, b.text) for a, b in zip(written, rules, strict=True))
    if not same:
        raise WiringError(f"{family.path} would not hold the key map that was certified, so it is left as it was.")
    transaction = Transaction(family.require_project().root)
    transaction.write(family.path, new)
    return transaction

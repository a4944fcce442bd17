"""Edits of the files in which a project names its families, and of their key maps; one codemod a module.

A codemod takes and gives bytes, so that the encoding, the byte order mark and the line ends stay what
they are. It touches nothing but its entry, doing it twice changes nothing more, and what it cannot edit
safely is a `WiringError` with the line.
"""

from __future__ import annotations

from kinfold.scaffold.wire.keymap.add import add_key_map
from kinfold.scaffold.wire.keymap.edit import Add, Change, Edit, Keep, edit_key_map
from kinfold.scaffold.wire.keymap.read import KeyMapSource, RuleSource, read_key_maps
from kinfold.scaffold.wire.keymap.rule_text import same_call
from kinfold.scaffold.wire.registry import add_family, remove_family

__all__ = [
    "Add",
    "Change",
    "Edit",
    "Keep",
    "KeyMapSource",
    "RuleSource",
    "add_family",
    "add_key_map",
    "edit_key_map",
    "read_key_maps",
    "remove_family",
    "same_call",
]

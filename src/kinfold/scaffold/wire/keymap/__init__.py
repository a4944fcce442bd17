"""Edits of the key maps in a family's `loader.py`: reading them, editing one rule by rule, adding one."""

from __future__ import annotations

from kinfold.scaffold.wire.keymap.add import add_key_map
from kinfold.scaffold.wire.keymap.edit import Add, Change, Edit, Keep, edit_key_map
from kinfold.scaffold.wire.keymap.read import KeyMapSource, RuleSource, read_key_maps
from kinfold.scaffold.wire.keymap.rule_text import same_call

__all__ = [
    "Add",
    "Change",
    "Edit",
    "Keep",
    "KeyMapSource",
    "RuleSource",
    "add_key_map",
    "edit_key_map",
    "read_key_maps",
    "same_call",
]

"""Edits of the files in which a project names its families; those of key maps are in `keymap`.

A codemod takes and gives bytes, so that the encoding, the byte order mark and the line ends stay what
they are. It touches nothing but its entry, doing it twice changes nothing more, and what it cannot edit
safely is a `WiringError` with the line.
"""

from __future__ import annotations

from kinfold.scaffold.wire.registry import add_family, remove_family

__all__ = ["add_family", "remove_family"]

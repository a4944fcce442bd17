"""Adding a family to the `FAMILIES` table of a project's registry.py, and taking it out.

The table stays a person's own: a dict literal, from the name of a family to its module.
"""

from __future__ import annotations

import ast

from kinfold.errors import WiringError
from kinfold.scaffold.wire.edit import insert_entry, remove_entry
from kinfold.scaffold.wire.find import find_table

_TABLE = "FAMILIES"


def add_family(source: bytes, name: str, module: str, *, place: str = "registry.py") -> bytes:
    """Add the entry `name: module` to the table, in front of the first name that is greater.

    Args:
        source: The content of the registry file.
        name: The name of the family, an ASCII identifier.
        module: The dotted name of its module.
        place: What error messages call the file.

    Returns:
        The new content; `source` itself if the entry is there already.

    Raises:
        WiringError: The file does not parse; it does not hold exactly one table, a dict literal at the top
            level with plain strings as keys; or `name` stands there with another module.
    """
    _check_names(name, module)
    entries = find_table(source, _TABLE, place)
    if name in entries:
        _check_module(entries[name], name, module, place)
        return source
    index = next((index for index, key in enumerate(entries) if key > name), len(entries))
    return insert_entry(source, _TABLE, index, name, module, place=place)


def remove_family(source: bytes, name: str, *, place: str = "registry.py") -> bytes:
    """Take the entry of `name` out of the table, with the comments that belong to it.

    Those are the one behind it, and the lines right in front of it.

    Returns:
        The new content; `source` itself if there is no such entry.

    Raises:
        WiringError: As for `add_family`.
    """
    entries = find_table(source, _TABLE, place)
    if name not in entries:
        return source
    return remove_entry(source, _TABLE, list(entries).index(name), place=place)


def _check_names(name: str, module: str) -> None:
    faults = []
    if not _is_identifier(name):
        faults.append(f"the name {name!r} is no ASCII identifier")
    if not all(map(_is_identifier, module.split("."))):
        faults.append(f"the module {module!r} is not made of ASCII identifiers joined by dots")
    if faults:
        raise WiringError("This family cannot be wired:", faults=faults)


def _is_identifier(text: str) -> bool:
    return text.isascii() and text.isidentifier()


def _check_module(value: ast.expr, name: str, module: str, place: str) -> None:
    if isinstance(value, ast.Constant) and value.value == module:
        return
    raise WiringError(
        f"{place}, line {value.lineno}: the family {name!r} is wired already, to {ast.unparse(value)}.",
        hint=f"Take that entry out to wire {name!r} to {module!r}, or choose another name.",
    )

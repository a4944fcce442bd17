"""Inserting and removing one entry of a dict literal in a file, with `libcst`; all else stays byte for byte."""

from __future__ import annotations

from typing import TypeVar

import libcst as cst

from kinfold.errors import WiringError
from kinfold.scaffold.wire.literal import insert, remove, spread

_LINE_WIDTH = 79
"""A literal on one line is spread over several when its line gets wider. A formatter leaves a spread one alone whatever
its width is set to, one on a single line only if it fits; 79 is the narrowest setting in use."""

_Node = TypeVar("_Node", bound=cst.CSTNode)


def insert_entry(source: bytes, name: str, index: int, key: str, value: str, *, place: str) -> bytes:
    """Insert the entry `key: value` as number `index` into the dict literal that `source` binds to `name`.

    It is written in the quotes of the other entries.

    Args:
        source: A file in which `find_table` has found the literal.
        name: The variable.
        index: From 0 up to the number of entries.
        key: A string that needs no escapes.
        value: A string that needs no escapes.
        place: What error messages call the file.

    Raises:
        WiringError: libcst cannot read the file, or does not give it back byte for byte.
    """
    module = parse_module(source, place)
    statement, old = find_binding(module, name, cst.Dict)
    quote = _quote(old)
    entry = cst.DictElement(cst.SimpleString(f"{quote}{key}{quote}"), cst.SimpleString(f"{quote}{value}{quote}"))
    new = insert(old, index, entry, indent=module.default_indent)
    if _is_too_wide(_replace(statement, old, new), module):
        new = spread(new, indent=module.default_indent)
    return encode(_replace(module, old, new), place)


def remove_entry(source: bytes, name: str, index: int, *, place: str) -> bytes:
    """Remove entry number `index`, with the comments that belong to it; otherwise as `insert_entry`."""
    module = parse_module(source, place)
    _, old = find_binding(module, name, cst.Dict)
    return encode(_replace(module, old, remove(old, index)), place)


def parse_module(source: bytes, place: str) -> cst.Module:
    """The syntax tree of a file, which gives it back byte for byte.

    Raises:
        WiringError: libcst cannot read the file, or does not give it back.
    """
    try:
        module = cst.parse_module(source)
    except cst.ParserSyntaxError as error:
        raise WiringError(f"{place}, line {error.raw_line} cannot be read: {error.message}.") from error
    if module.bytes != source:
        raise WiringError(
            f"{place} cannot be edited without changing lines that are not to change.",
            hint="Its lines have to end in a line feed, or in a carriage return and a line feed.",
        )
    return module


def encode(module: cst.Module, place: str) -> bytes:
    """The content of a file, in the encoding that it declares.

    Raises:
        WiringError: The encoding cannot express what is new.
    """
    try:
        return module.bytes
    except UnicodeEncodeError as error:
        raise WiringError(f"{place} cannot be written in the encoding that it declares: {error}.") from error


def find_binding(module: cst.Module, name: str, kind: type[_Node]) -> tuple[cst.SimpleStatementLine, _Node]:
    """The line at the top level that binds a value of this kind to `name`, and the value; it has to be there."""
    for line in module.body:
        if isinstance(line, cst.SimpleStatementLine):
            for statement in line.body:
                match statement:
                    case (
                        cst.Assign(targets=[cst.AssignTarget(target=cst.Name(bound))], value=value)
                        | cst.AnnAssign(target=cst.Name(bound), value=value)
                    ) if bound == name and isinstance(value, kind):
                        return line, value
    raise LookupError(name)


def _quote(literal: cst.Dict) -> str:
    keys = (entry.key for entry in literal.elements if isinstance(entry, cst.DictElement))
    return next((key.quote[0] for key in keys if isinstance(key, cst.SimpleString)), '"')


def _replace(tree: _Node, old: cst.Dict, new: cst.Dict) -> _Node:
    return tree.with_deep_changes(old, lbrace=new.lbrace, elements=new.elements, rbrace=new.rbrace)


def _is_too_wide(line: cst.SimpleStatementLine, module: cst.Module) -> bool:
    code = module.code_for_node(line.with_changes(leading_lines=())).rstrip("\r\n")
    return "\n" not in code and len(code) > _LINE_WIDTH

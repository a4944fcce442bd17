"""Keeping `from kinfold.keymap import ...` right: the names that an edit needs, and those it has left unused."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from typing import TypeVar

import libcst as cst
from libcst.helpers import get_full_name_for_node

from kinfold.errors import WiringError
from kinfold.scaffold.wire.edit import encode
from kinfold.scaffold.wire.find import parse_source
from kinfold.scaffold.wire.keymap.breaks import columns, comment_columns
from kinfold.scaffold.wire.keymap.read import CONVERTER, KEY_MAP, PACKAGE, imported_names, other_bindings
from kinfold.scaffold.wire.literal import insert, line_break, remove, spread

_Node = TypeVar("_Node", bound=cst.CSTNode)


def check_names(source: bytes, names: Iterable[str], place: str) -> None:
    """Check that names can be imported from `kinfold.keymap`.

    Raises:
        WiringError: The file gives one of them another meaning; all are listed.
    """
    tree = parse_source(source, place)
    taken = sorted((line, name) for name in names for line in other_bindings(tree, name))
    if taken:
        raise WiringError(
            f"The key maps of {place} cannot be edited safely:",
            faults=[f"line {line}: {name} is given another meaning than that of {PACKAGE}" for line, name in taken],
        )


def update_imports(module: cst.Module, called: set[str], dropped: set[str], *, place: str, width: int) -> cst.Module:
    """Import what is called, and no longer what the file does not use any more.

    Args:
        module: The file after the edit.
        called: What its new rules call.
        dropped: What its old ones called.
        place: What error messages call the file.
        width: The longest line.
    """
    tree = parse_source(encode(module, place), place)
    imported = imported_names(tree)
    for name in sorted((dropped & imported) - _used_names(tree)):
        module = _without_name(module, name)
    for name in sorted(called - imported):
        module = _with_name(module, name, width)
    return module


def _used_names(tree: ast.Module) -> set[str]:
    """All names that are used, and those that `__all__` is bound to."""
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    exports = [node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"]
    strings = (node for export in exports for node in ast.walk(export.value) if isinstance(node, ast.Constant))
    return names | {str(node.value) for node in strings}


def _without_name(module: cst.Module, name: str) -> cst.Module:
    line, statement = next(found for found in _imports(module) if name in _names(found[1]))
    names = _names(statement)
    if len(names) == 1:
        return cst.ensure_type(module.deep_remove(statement if len(line.body) > 1 else line), cst.Module)
    new = remove(_in_parentheses(statement), names.index(name))
    return _replace(module, statement, new if statement.lpar else _without_parentheses(new))


def _with_name(module: cst.Module, name: str, width: int) -> cst.Module:
    found = [(line, statement) for line, statement in _imports(module) if _plain_names(statement)]
    if not found:
        return _with_import(module, name)
    line, statement = next((pair for pair in found if KEY_MAP in _plain_names(pair[1])), found[0])
    names = _names(statement)
    index = next((index for index, other in enumerate(names) if _order(other) > _order(name)), len(names))
    new = insert(_in_parentheses(statement), index, cst.ImportAlias(cst.Name(name)), indent=module.default_indent)
    new_line = line.deep_replace(statement, new if statement.lpar else _without_parentheses(new))
    code = module.code_for_node(cst.ensure_type(new_line, cst.SimpleStatementLine).with_changes(leading_lines=()))
    comment = line.trailing_whitespace.comment
    is_long = columns(code.partition("#")[0].rstrip()) + comment_columns(comment) > width
    if is_long and "\n" not in code.rstrip():
        new_line = _spread(line, statement, new, module.default_indent)
    return _replace(module, line, new_line)


def _spread(line: cst.SimpleStatementLine, old: cst.ImportFrom, new: cst.ImportFrom, indent: str) -> cst.CSTNode:
    """The names one a line; a comment behind them moves up to the bracket, where isort puts it."""
    new = spread(new, indent=indent)
    trailing = line.trailing_whitespace
    if trailing.comment and isinstance(new.lpar, cst.LeftParen):
        opening = line_break(indent).with_changes(first_line=trailing)
        new = new.with_changes(lpar=new.lpar.with_changes(whitespace_after=opening))
        line = line.with_changes(trailing_whitespace=cst.TrailingWhitespace(newline=trailing.newline))
    return _replace(line, old, new)


def _with_import(module: cst.Module, name: str) -> cst.Module:
    """A new statement, among the imports from the package that the converter comes from, in the order of isort."""
    body = list(module.body)
    at = next(index for index, line in enumerate(body) if _imports_converter(line))
    while at < len(body) and (other := _imported_module(body[at])) and other < PACKAGE:
        at += 1
    package = cst.ensure_type(cst.parse_expression(PACKAGE), cst.Attribute)
    new = cst.SimpleStatementLine([cst.ImportFrom(package, [cst.ImportAlias(cst.Name(name))])])
    return module.with_changes(body=[*body[:at], new, *body[at:]])


def _imports_converter(line: cst.CSTNode) -> bool:
    return any(CONVERTER in _names(statement) for statement in _imports_from(line))


def _imported_module(line: cst.CSTNode) -> str:
    return next((_module_name(statement) for statement in _imports_from(line)), "")


def _imports(module: cst.Module) -> Iterator[tuple[cst.SimpleStatementLine, cst.ImportFrom]]:
    """The imports from `kinfold.keymap` at the top level, each with its line."""
    for line in module.body:
        if isinstance(line, cst.SimpleStatementLine):
            yield from ((line, found) for found in _imports_from(line) if _module_name(found) == PACKAGE)


def _imports_from(line: cst.CSTNode) -> list[cst.ImportFrom]:
    small = line.body if isinstance(line, cst.SimpleStatementLine) else ()
    return [statement for statement in small if isinstance(statement, cst.ImportFrom)]


def _module_name(statement: cst.ImportFrom) -> str:
    return get_full_name_for_node(statement.module) or "" if statement.module and not statement.relative else ""


def _names(statement: cst.ImportFrom) -> list[str]:
    """The imported names in their order; one with an `as` is none of ours, and is empty."""
    aliases = () if isinstance(statement.names, cst.ImportStar) else statement.names
    return ["" if alias.asname else alias.evaluated_name for alias in aliases]


def _plain_names(statement: cst.ImportFrom) -> list[str]:
    return [name for name in _names(statement) if name]


def _order(name: str) -> tuple[int, str]:
    """As isort sorts names by default: constants, classes, all others."""
    return (0 if name.isupper() else 1 if name[:1].isupper() else 2), name.lower()


def _in_parentheses(statement: cst.ImportFrom) -> cst.ImportFrom:
    if statement.lpar:
        return statement
    return statement.with_changes(lpar=cst.LeftParen(), rpar=cst.RightParen())


def _without_parentheses(statement: cst.ImportFrom) -> cst.ImportFrom:
    return statement.with_changes(lpar=None, rpar=None)


def _replace(tree: _Node, old: cst.CSTNode, new: cst.CSTNode) -> _Node:
    return cst.ensure_type(tree.deep_replace(old, new), type(tree))

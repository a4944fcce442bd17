"""Finding the one dict literal that a file binds to a name, with `ast`, which is fast.

It is found only if the literal is all there is to the table. Whatever else binds or changes the name, and
whatever key is not a plain string, could hide an entry: that is a fault.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from kinfold.errors import WiringError

_Fault = tuple[int, str]  # a line, and what is wrong there


def find_table(source: bytes, name: str, place: str) -> dict[str, ast.expr]:
    """The entries of the dict literal that a Python file binds to `name`, in the order they are written.

    Args:
        source: The content of the file, in whatever encoding it declares.
        name: The variable.
        place: What error messages call the file.

    Raises:
        WiringError: The file does not parse, or does not hold exactly one such literal at its top level, with
            plain strings as keys, each once. Every fault is listed with its line.
    """
    tree = parse_source(source, place)
    target, literal = next(filter(None, (_literal(statement, name) for statement in tree.body)), (None, None))
    entries, faults = _read(literal) if literal else ({}, [])
    other = "is bound or changed again" if literal else "is bound, but not to a dict literal at the top level"
    faults += [(node.lineno, f"{name} {other}") for node in bindings(tree, name) if node is not target]
    if not (literal or faults):
        faults = [(1, f"nothing in this file binds {name}")]
    if faults:
        raise WiringError(
            f"{name} in {place} cannot be edited safely:",
            faults=[f"line {line}: {fault}" for line, fault in sorted(faults)],
            hint=f'It has to be one dict literal at the top level, with strings as keys: {name} = {{"key": "value"}}.',
        )
    return entries


def parse_source(source: bytes, place: str) -> ast.Module:
    try:
        return ast.parse(source, filename=place)
    except (SyntaxError, ValueError) as error:  # ValueError: a null byte, in some versions of Python
        raise WiringError(f"{place} is not valid Python: {error}.") from error


def _literal(statement: ast.stmt, name: str) -> tuple[ast.Name, ast.Dict] | None:
    """The target and the value of a statement that binds a dict literal to `name`, and to nothing else."""
    match statement:
        case ast.Assign(targets=[ast.Name() as target], value=ast.Dict() as literal) if target.id == name:
            return target, literal
        case ast.AnnAssign(target=ast.Name() as target, value=ast.Dict() as literal) if target.id == name:
            return target, literal
        case _:
            return None


def _read(literal: ast.Dict) -> tuple[dict[str, ast.expr], list[_Fault]]:
    entries: dict[str, ast.expr] = {}
    faults: list[_Fault] = []
    for key, value in zip(literal.keys, literal.values, strict=True):
        match key:
            case None:
                faults.append((value.lineno, f"**{ast.unparse(value)} could hide an entry"))
            case ast.Constant(value=str() as text):
                if text in entries:
                    faults.append((key.lineno, f"the key {text!r} stands here for the second time"))
                entries[text] = value
            case _:
                faults.append((key.lineno, f"the key {ast.unparse(key)} is no plain string"))
    return entries, faults


def bindings(tree: ast.Module, name: str) -> Iterator[ast.expr | ast.alias]:
    """Whatever gives `name` a value, or changes the dict behind it, in any scope."""
    for node in ast.walk(tree):
        match node:
            case (
                ast.Name(id=bound, ctx=ast.Store() | ast.Del())
                | ast.Subscript(value=ast.Name(id=bound), ctx=ast.Store() | ast.Del())
                | ast.Call(
                    func=ast.Attribute(ast.Name(id=bound), "clear" | "pop" | "popitem" | "setdefault" | "update")
                )
                | ast.alias(asname=str() as bound)
                | ast.alias(name=bound, asname=None)
            ) if bound == name:
                yield node

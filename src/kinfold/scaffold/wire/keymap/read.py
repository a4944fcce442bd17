"""Reading the key maps of a family's `loader.py`: which layouts there are, and the rules of each."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kinfold.errors import WiringError
from kinfold.scaffold.wire.find import bindings, parse_source
from kinfold.scaffold.wire.keymap.rule_text import Fault, called_names, rule_faults, rule_text

PACKAGE = "kinfold.keymap"
"""Where a loader imports `KeyMap` from, and the functions that make rules."""

CONVERTER = "CheckpointConverter"

KEY_MAP = "KeyMap"


@dataclass(frozen=True, slots=True)
class RuleSource:
    """A rule as it is written.

    Attributes:
        position: Its number, from 0 on.
        line: The line on which its call begins.
        text: Its call as `Rule.text` has it; where it makes no rule (a size is missing), it is only put on one line.
    """

    position: int
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class KeyMapSource:
    """A key map as it is written.

    Attributes:
        layout: What the converter calls it.
        variable: What it is bound to; the expression, where it is no variable.
        line: Where it is bound, or where the converter is given it.
        rules: Its rules in order; none where there are faults.
        faults: Why it cannot be edited safely, each with its line.
    """

    layout: str
    variable: str
    line: int
    rules: tuple[RuleSource, ...] = ()
    faults: tuple[str, ...] = ()


def read_key_maps(source: bytes, *, place: str = "loader.py") -> dict[str, KeyMapSource]:
    """The key maps that the file gives its `CheckpointConverter`, by the name of the layout.

    One that cannot be edited safely is among them, and says why.

    Args:
        source: The content of the file, in whatever encoding it declares.
        place: What error messages call the file.

    Raises:
        WiringError: The file does not parse, or does not call `CheckpointConverter` exactly once.
    """
    tree = parse_source(source, place)
    keywords = {str(keyword.arg): keyword.value for keyword in find_converter(tree, place).keywords if keyword.arg}
    variables = [ast.unparse(value) for value in keywords.values()]
    key_maps = {}
    for layout, value in keywords.items():
        others = [other for other, text in zip(keywords, variables, strict=True) if text == ast.unparse(value)]
        key_maps[layout] = _read(tree, layout, value, [other for other in others if other != layout])
    return key_maps


def find_converter(tree: ast.Module, place: str) -> ast.Call:
    """The one call of `CheckpointConverter`.

    Raises:
        WiringError: There is none, or more than one.
    """
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _called(node) == CONVERTER]
    if len(calls) == 1:
        return calls[0]
    faults = [f"line {call.lineno}: {CONVERTER} is called here" for call in calls]
    raise WiringError(
        f"The key maps of {place} cannot be found:",
        faults=faults or [f"line 1: nothing in this file calls {CONVERTER}"],
        hint=f"It has to be called once, with the key maps: {CONVERTER}(hf=hf_key_map).",
    )


def find_key_map(tree: ast.Module, variable: str) -> tuple[ast.Name, ast.Call] | None:
    """The target and the value of the first statement at the top level that binds `KeyMap(...)` to a variable."""
    for statement in tree.body:
        match statement:
            case (
                ast.Assign(targets=[ast.Name() as target], value=ast.Call() as call)
                | ast.AnnAssign(target=ast.Name() as target, value=ast.Call() as call)
            ) if target.id == variable and _called(call) == KEY_MAP:
                return target, call
    return None


def imported_names(tree: ast.Module) -> set[str]:
    """What the file imports from `kinfold.keymap`, at the top level and under its own name."""
    return {alias.name for statement in tree.body for alias in _own_aliases(statement)}


def _read(tree: ast.Module, layout: str, value: ast.expr, others: Sequence[str]) -> KeyMapSource:
    variable = ast.unparse(value)
    found = find_key_map(tree, variable)
    faults = [(value.lineno, f"{variable} is the key map of {other!r}, too") for other in others]
    if not isinstance(value, ast.Name):
        faults.append((value.lineno, f"{layout!r} is given {variable}, which is no variable"))
    elif not found:
        lines = [node.lineno for node in bindings(tree, variable)] or [value.lineno]
        faults += [(line, f"{variable} is not bound to {KEY_MAP}(...) at the top level") for line in lines]
    if found:
        faults += _key_map_faults(tree, *found)
    line = found[1].lineno if found else value.lineno
    if faults or not found:
        return KeyMapSource(layout, variable, line, faults=tuple(f"line {at}: {fault}" for at, fault in sorted(faults)))
    calls = [argument for argument in found[1].args if isinstance(argument, ast.Call)]
    rules = [RuleSource(position, call.lineno, rule_text(call)) for position, call in enumerate(calls)]
    return KeyMapSource(layout, variable, line, tuple(rules))


def _key_map_faults(tree: ast.Module, target: ast.Name, call: ast.Call) -> Iterator[Fault]:
    for node in bindings(tree, target.id):
        if node is not target:
            yield node.lineno, f"{target.id} is bound or changed again"
    if not isinstance(call.func, ast.Name):
        yield call.lineno, f"{ast.unparse(call.func)} is no plain name; write `from {PACKAGE} import {KEY_MAP}`"
        return
    faults = [(keyword.value.lineno, f"{KEY_MAP} takes rules alone") for keyword in call.keywords]
    faults += [fault for argument in call.args for fault in rule_faults(argument)]
    yield from faults or _name_faults(tree, call)


def _name_faults(tree: ast.Module, call: ast.Call) -> Iterator[Fault]:
    imported = imported_names(tree)
    for name in sorted(called_names(call)):
        if name not in imported:
            yield call.lineno, f"{name} is not imported by `from {PACKAGE} import {name}`"
        yield from ((line, f"{name} is given another meaning") for line in other_bindings(tree, name))


def other_bindings(tree: ast.Module, name: str) -> Iterator[int]:
    """The lines that give a name another meaning than that of an import from `kinfold.keymap`."""
    own = [alias for node in ast.walk(tree) for alias in _own_aliases(node)]
    yield from (node.lineno for node in bindings(tree, name) if node not in own)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == name:
            yield node.lineno


def _own_aliases(node: ast.AST) -> list[ast.alias]:
    if isinstance(node, ast.ImportFrom) and node.module == PACKAGE and not node.level:
        return [alias for alias in node.names if alias.asname is None]
    return []


def _called(call: ast.Call) -> str:
    return ast.unparse(call.func).rpartition(".")[2]

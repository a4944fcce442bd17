"""Adding a key map to a family's `loader.py`."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import Any

import libcst as cst
from libcst import matchers

from kinfold.errors import WiringError
from kinfold.scaffold.wire.edit import encode, parse_module
from kinfold.scaffold.wire.find import bindings, parse_source
from kinfold.scaffold.wire.keymap.breaks import Arranger, room
from kinfold.scaffold.wire.keymap.imports import check_names, update_imports
from kinfold.scaffold.wire.keymap.merge import Merger
from kinfold.scaffold.wire.keymap.read import CONVERTER, KEY_MAP, find_converter
from kinfold.scaffold.wire.keymap.rule_text import Fault, called_names, parse_rule
from kinfold.scaffold.wire.literal import insert, line_break, put_together, spread

_VALUE = matchers.Call(func=matchers.Name(KEY_MAP))
_KEY_MAP = matchers.Assign(value=_VALUE) | matchers.AnnAssign(value=_VALUE)
_DOCSTRING = matchers.SimpleStatementLine([matchers.Expr(matchers.SimpleString())])


def add_key_map(
    source: bytes, layout: str, texts: Sequence[str], *, docstring: str, place: str = "loader.py", width: int = 88
) -> bytes:
    """Add a key map behind the others, bound to `<layout>_key_map`, and give it to the converter.

    Args:
        source: The content of the file.
        layout: What the converter is to call it, an ASCII identifier.
        texts: Its rules, as `Rule.text` has them.
        docstring: One line about it.
        place: What error messages call the file.
        width: The longest line.

    Returns:
        The new content.

    Raises:
        WiringError: The layout or its variable is there already, or the file cannot be edited safely.
        ValueError: A text is no call of a rule, or the docstring is no single line.
    """
    called = {KEY_MAP}.union(*(called_names(parse_rule(text)) for text in texts))
    if len(docstring.splitlines()) != 1:
        raise ValueError(f"the docstring {docstring!r} is no single line")
    _check(source, layout, place)
    check_names(source, called, place)
    module = parse_module(source, place)
    at, line, call = _find_converter(module)
    body = [*module.body]
    body[at] = _with_layout(module, line, call, layout, width)
    start, blank_lines = _find_place(body[: at + 1])
    key_map, words = _statements(module, layout, texts, docstring, width)
    key_map = key_map.with_changes(leading_lines=[cst.EmptyLine()] * blank_lines)
    body[start] = body[start].with_changes(leading_lines=_set_off(body[start]))
    module = module.with_changes(body=[*body[:start], key_map, words, *body[start:]])
    return encode(update_imports(module, called, set(), place=place, width=width), place)


def _check(source: bytes, layout: str, place: str) -> None:
    if not (layout.isascii() and layout.isidentifier()):
        raise WiringError(f"{layout!r} cannot be the name of a layout: it is no ASCII identifier.")
    faults = sorted(_faults(parse_source(source, place), layout, place))
    if faults:
        raise WiringError(
            f"A key map for {layout!r} cannot be added to {place}:",
            faults=[f"line {line}: {fault}" for line, fault in faults],
        )


def _faults(tree: ast.Module, layout: str, place: str) -> Iterator[Fault]:
    call = find_converter(tree, place)
    for keyword in call.keywords:
        if keyword.arg is None:
            yield keyword.value.lineno, f"**{ast.unparse(keyword.value)} could hide it"
        elif keyword.arg == layout:
            yield keyword.value.lineno, f"there is one already, {ast.unparse(keyword.value)}"
    yield from ((node.lineno, f"{layout}_key_map is bound here") for node in bindings(tree, f"{layout}_key_map"))
    statements = (statement for statement in tree.body if isinstance(statement, ast.Assign | ast.AnnAssign | ast.Expr))
    if not any(call in ast.walk(statement) for statement in statements):
        yield call.lineno, f"{CONVERTER} is not called in a plain statement at the top level"


def _find_converter(module: cst.Module) -> tuple[int, cst.SimpleStatementLine, cst.Call]:
    """The number of the statement with the call of the converter, that statement, and the call."""
    for at, line in enumerate(module.body):
        if isinstance(line, cst.SimpleStatementLine):
            for call in matchers.findall(line, matchers.Call()):
                if isinstance(call, cst.Call) and module.code_for_node(call.func).rpartition(".")[2] == CONVERTER:
                    return at, line, call
    raise LookupError(CONVERTER)


def _with_layout(
    module: cst.Module, line: cst.SimpleStatementLine, call: cst.Call, layout: str, width: int
) -> cst.SimpleStatementLine:
    """The statement with one more key map in the call of the converter."""
    step = module.default_indent
    equal = cst.AssignEqual(cst.SimpleWhitespace(""), cst.SimpleWhitespace(""))
    argument = cst.Arg(cst.Name(f"{layout}_key_map"), keyword=cst.Name(layout), equal=equal)
    new = insert(call, len(call.args), argument, indent=step)
    statement: Any = next(small for small in line.body if call in _nodes(small))
    arranger = Arranger(module, width, step)
    before, after = room(module, line, statement)
    value = _replace(statement.value, call, new)
    if arranger.is_arranged(statement.value, indent="", before=before, after=after):
        value = arranger.arrange(value, indent="", before=before, after=after)
    elif "\n" not in arranger.code(value) and not arranger.fits(value, before=before, after=after):
        value = _replace(statement.value, call, spread(new, indent=step))
    return line.with_deep_changes(statement, value=value)


def _find_place(body: Sequence[cst.BaseStatement]) -> tuple[int, int]:
    """Behind the last key map and its docstring, or in front of the last statement; and the blank lines it needs."""
    key_maps = [at for at, line in enumerate(body[:-1]) if _is_key_map(line)]
    if key_maps:
        behind = key_maps[-1] + 1
        return behind + matchers.matches(body[behind], _DOCSTRING), 1
    lines = getattr(body[-1], "leading_lines", ())
    blank = next((count for count, line in enumerate(lines) if line.comment), len(lines))
    return len(body) - 1, max(1, blank)


def _is_key_map(line: cst.BaseStatement) -> bool:
    small = line.body if isinstance(line, cst.SimpleStatementLine) else ()
    return any(matchers.matches(statement, _KEY_MAP) for statement in small)


def _set_off(line: cst.BaseStatement) -> list[cst.EmptyLine]:
    """The lines in front of a statement, of which the first is blank."""
    lines = [*getattr(line, "leading_lines", ())]
    return lines if lines and not lines[0].comment else [cst.EmptyLine(), *lines]


def _statements(
    module: cst.Module, layout: str, texts: Sequence[str], docstring: str, width: int
) -> tuple[cst.SimpleStatementLine, cst.SimpleStatementLine]:
    """The new key map, a rule a line, and its docstring."""
    step = module.default_indent
    target = cst.AssignTarget(cst.Name(f"{layout}_key_map"))
    key_map: cst.BaseExpression = cst.Call(cst.Name(KEY_MAP))
    if texts:
        merger = Merger(module, module, step)
        rules = [cst.Arg(merger.parse(text)) for text in texts]
        gaps = [*(line_break(step) for _ in rules), line_break("")]
        key_map = put_together(key_map, rules, gaps, trailing_comma=True)
        key_map = Arranger(module, width, step).arrange(key_map, indent="", before=0, after=0)
    return (
        cst.SimpleStatementLine([cst.Assign([target], key_map)]),
        cst.SimpleStatementLine([cst.Expr(cst.SimpleString(_quoted(docstring)))]),
    )


def _quoted(docstring: str) -> str:
    words = docstring.strip().replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    return f'"""{words[:-1]}\\""""' if words.endswith('"') else f'"""{words}"""'


def _nodes(tree: cst.CSTNode) -> Iterator[cst.CSTNode]:
    yield tree
    for child in tree.children:
        yield from _nodes(child)


def _replace(tree: cst.BaseExpression, old: cst.CSTNode, new: cst.CSTNode) -> cst.BaseExpression:
    return cst.ensure_type(tree.deep_replace(old, new), cst.BaseExpression)

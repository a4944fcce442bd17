"""Rules as source text: calls of the functions of `kinfold.keymap` that make them, with literals."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kinfold.keymap import Rule

Fault = tuple[int, str]
"""A line, and what is wrong there."""


def same_call(a: str, b: str) -> bool:
    """Whether two texts are calls that make the same rule, in whatever way they are written.

    Raises:
        ValueError: As for `parse_rule`.
    """
    return rule_text(parse_rule(a)) == rule_text(parse_rule(b))


def parse_rule(text: str) -> ast.Call:
    """The call that a text is.

    Raises:
        ValueError: It is anything else than a call of a function that makes a rule, with literals.
    """
    try:
        call = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"{text!r} is no rule: {error}") from error
    faults = [fault for _, fault in rule_faults(call)]
    if faults or not isinstance(call, ast.Call):
        raise ValueError(f"{text!r} is no rule: {'; '.join(faults)}")
    return call


def rule_text(call: ast.Call) -> str:
    """The call of a rule as `Rule.text` has it; where it makes none (a size is missing), it is only put on one line.

    Args:
        call: A call that has no `rule_faults`.
    """
    try:
        return _rule(call).text
    except Exception:  # whatever a function makes of arguments that it does not take
        return ast.unparse(call)


def rule_faults(node: ast.expr) -> Iterator[Fault]:
    """Why an expression is no call of a function that makes a rule, with literals or with such calls."""
    match node:
        case ast.Call(func=ast.Name(name)) if name in _functions():
            for argument in node.args:
                yield from _argument_faults(argument)
            for keyword in node.keywords:
                if keyword.arg is None:
                    yield keyword.value.lineno, f"**{ast.unparse(keyword.value)} is unpacked"
                else:
                    yield from _argument_faults(keyword.value)
        case _:
            yield node.lineno, f"{ast.unparse(node)} is no plain call of a rule of kinfold.keymap"


def called_names(node: ast.AST) -> set[str]:
    """The functions that are called by a plain name anywhere in a syntax tree."""
    calls = (child for child in ast.walk(node) if isinstance(child, ast.Call))
    return {call.func.id for call in calls if isinstance(call.func, ast.Name)}


def _argument_faults(node: ast.expr) -> Iterator[Fault]:
    if isinstance(node, ast.Call):
        yield from rule_faults(node)
        return
    try:
        ast.literal_eval(node)
    except (TypeError, ValueError):  # a set of lists, a name
        yield node.lineno, f"{ast.unparse(node)} is no literal"


def _rule(call: ast.Call) -> Rule:
    make = _functions()[call.func.id if isinstance(call.func, ast.Name) else ""]
    return make(*map(_value, call.args), **{str(keyword.arg): _value(keyword.value) for keyword in call.keywords})


def _value(node: ast.expr) -> object:
    return _rule(node) if isinstance(node, ast.Call) else ast.literal_eval(node)


@cache
def _functions() -> dict[str, Callable[..., Rule]]:
    """The functions that make a rule, by name."""
    from kinfold import keymap

    public = {name: getattr(keymap, name) for name in keymap.__all__}
    return {name: value for name, value in public.items() if _returned(value) == "Rule"}


def _returned(value: object) -> object:
    return getattr(value, "__annotations__", {}).get("return")

"""Rules that a spec has in words: their text made rules."""

from __future__ import annotations

from functools import cache

from kinfold import keymap
from kinfold.errors import KeyMapError
from kinfold.keymap import Rule


@cache
def parse_rule(text: str) -> Rule:
    """The rule that a text is: a call of a function of `kinfold.keymap`, with literals or with such calls.

    Raises:
        KeyMapError: It is anything else, or makes no rule.
    """
    from kinfold.scaffold.wire.keymap.rule_text import parse_rule as check  # imports libcst

    try:
        check(text)  # so that what is evaluated does nothing but make rules
        return eval(text, {**vars(keymap), "__builtins__": {}})
    except (TypeError, ValueError, KeyMapError) as error:
        raise KeyMapError(str(error) if text in str(error) else f"{text!r} is no rule: {error}") from error

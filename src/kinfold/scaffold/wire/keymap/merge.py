"""Changing an expression into another, so that whatever is the same on both sides stays as it is written."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import Any

import libcst as cst
from libcst import matchers

from kinfold.scaffold.wire.literal import insert, remove, replace_item, take_apart


class Merger:
    """Merges new expressions into those of one file.

    Args:
        module: The file.
        neighbours: A part of it, in whose quotes new strings are written; those of the file, where it has none.
        step: The indentation of what is put into empty brackets.
    """

    def __init__(self, module: cst.Module, neighbours: cst.CSTNode, step: str) -> None:
        self._module = module
        self._step = step
        self._quote = _usual_quote(neighbours) or _usual_quote(module) or '"'

    def parse(self, text: str) -> cst.BaseExpression:
        """A text as an expression of the file."""
        return self._requoted(cst.parse_expression(text, config=self._module.config_for_parsing))

    def merge(self, old: cst.BaseExpression, new: cst.BaseExpression) -> cst.BaseExpression:
        """The old expression, changed until it says the same as the new one.

        Only what differs is replaced: the function, single arguments, items of a tuple, strings. What goes takes the
        comments that belong to it along.
        """
        if self._meaning(old) == self._meaning(new):
            return old
        match old, new:
            case cst.Call(), cst.Call():
                func = old.func if self._meaning(old.func) == self._meaning(new.func) else new.func
                return self._merge_items(old.with_changes(func=func), new)
            case cst.Tuple() | cst.List(), cst.Tuple() | cst.List():
                return self._merge_items(old, new)
            case cst.SimpleString(), cst.SimpleString():
                return self._requoted_as(old, new)
        return new

    def _merge_items(self, node: Any, new: Any) -> Any:
        old_items, new_items = take_apart(node)[0], take_apart(new)[0]
        at = 0
        for old_item, new_item in self._pairs(old_items, new_items):
            if new_item is None:
                node = remove(node, at)
            elif old_item is None:
                node = insert(node, at, new_item, indent=self._step)
                at += 1
            else:
                node = replace_item(node, at, old_item.with_changes(value=self.merge(old_item.value, new_item.value)))
                at += 1
        return node

    def _pairs(self, old: Sequence[Any], new: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """Old items with the new ones in their places: those without keywords by their order, the others by these."""
        before, after = ([item for item in items if not _keyword(item)] for items in (old, new))
        keys = () if len(before) == len(after) else (self._meaning_of_item, _function)
        yield from _ordered_pairs(before, after, keys)
        left = {_keyword(item): item for item in new if _keyword(item)}
        yield from ((item, left.pop(_keyword(item), None)) for item in old if _keyword(item))
        yield from ((None, item) for item in left.values())

    def _meaning_of_item(self, item: Any) -> str:
        return self._meaning(item.value)

    def _meaning(self, node: cst.BaseExpression) -> str:
        """The same for two expressions that say the same."""
        tree = ast.parse(f"({self._module.code_for_node(node)})", mode="eval")
        return ast.dump(_ListsAsTuples().visit(tree))

    def _requoted(self, node: cst.BaseExpression) -> Any:
        return matchers.replace(node, matchers.SimpleString(), lambda string, _: _in_quotes(string, self._quote))

    def _requoted_as(self, old: cst.SimpleString, new: cst.SimpleString) -> cst.SimpleString:
        """A new string, in the quotes of the old one if a formatter would leave it them."""
        free = old.quote in ("'", '"') and not any(quote in old.raw_value + new.raw_value for quote in "\"'")
        return _in_quotes(new, old.quote if free else self._quote)


class _ListsAsTuples(ast.NodeTransformer):
    def visit_List(self, node: ast.List) -> ast.Tuple:
        self.generic_visit(node)
        return ast.Tuple(node.elts, node.ctx)


def _ordered_pairs(
    old: Sequence[Any], new: Sequence[Any], keys: Sequence[Callable[[Any], str]]
) -> Iterator[tuple[Any, Any]]:
    """Items that have the first key in common; between these, those that have the next; in the end one by one."""
    if not keys or not old or not new:
        yield from zip_longest(old, new)
        return
    first, *others = keys
    matcher = SequenceMatcher(None, [first(item) for item in old], [first(item) for item in new], autojunk=False)
    for kind, i, j, k, n in matcher.get_opcodes():
        yield from _ordered_pairs(old[i:j], new[k:n], () if kind == "equal" else others)


def _function(item: Any) -> str:
    return item.value.func.value if matchers.matches(item.value, matchers.Call(func=matchers.Name())) else ""


def _keyword(item: Any) -> str:
    return item.keyword.value if isinstance(item, cst.Arg) and item.keyword else ""


def _in_quotes(string: Any, quote: str) -> cst.SimpleString:
    """A plain string in these quotes, or in the others where it needs fewer backslashes so."""
    if string.prefix or len(string.quote) > 1:
        return string
    body = re.sub(r"\\(['\"])", r"\1", re.sub(r"\\\\", "\0", string.raw_value))
    other = "'" if quote == '"' else '"'
    if body.count(quote) > body.count(other):
        quote = other
    body = body.replace(quote, f"\\{quote}").replace("\0", r"\\")
    return cst.SimpleString(f"{quote}{body}{quote}")


def _usual_quote(node: cst.CSTNode) -> str | None:
    strings = matchers.findall(node, matchers.SimpleString())
    quotes = Counter(string.quote for string in strings if isinstance(string, cst.SimpleString))
    plain = {quote: quotes[quote] for quote in ('"', "'") if quotes[quote]}
    return max(plain, key=plain.__getitem__) if plain else None

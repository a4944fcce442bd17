"""Rendering the key maps of a new family as the source text of its rules."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from textwrap import shorten

from kinfold.errors import KeyMapError
from kinfold.keymap import drop, tie
from kinfold.keymap.rules import Rule
from kinfold.scaffold.keymap.layouts import Names, names_of
from kinfold.scaffold.keymap.parameters import EMBED, OUTPUT, native_parameters
from kinfold.scaffold.keymap.turning import turned
from kinfold.scaffold.keymap.written import parse_rule
from kinfold.scaffold.spec.schema import Drop, Layout, Spec


def key_map_rules(spec: Spec, layout: Layout) -> list[str]:
    """The rules of a family's key map for `layout`, each as a line of source."""
    options = spec.key_maps[layout]
    if options.rules:
        return [parse_rule(rule).text for rule in options.rules]
    names, parameters = _names(spec, layout), list(native_parameters(spec))
    interleaved = options.rotary_pairs == "interleaved"
    turns = [turned(spec, names[native], native) if interleaved else None for native in parameters]
    rules = [
        _renamed(names[native], native) if turn is None else turn.text
        for native, turn in zip(parameters, turns, strict=True)
    ]
    if options.repeats_embedding:
        rules = _with_copied_embedding(rules, names[OUTPUT], names[EMBED], varies=OUTPUT in parameters)
    # Quoted by the rules themselves, since they may be anybody's words.
    rules += [tie(copy, to=original, written=False).text for copy, original in options.copies.items()]
    rules += [_drop(name, why).text for name, why in options.drop.items()]
    return rules


def called_functions(rules: Iterable[str]) -> set[str]:
    """The functions of `kinfold.keymap` that rules, as source, call."""
    tree = ast.parse(f"({', '.join(rules)},)")
    return {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}


def key_map_faults(spec: Spec) -> Iterator[str]:
    """What the layouts of a spec, known for such a model, have no name for, and rules that are none."""
    for layout, options in spec.key_maps.items():
        if options.rules:
            yield from _rule_faults(layout, options.rules)
        elif unnamed := [name for name in native_parameters(spec) if name not in _names(spec, layout)]:
            yield f"key_maps.{layout}: the layout has no name for {', '.join(unnamed)}; key_maps.{layout}.rules could"
        elif layout == "gguf" and spec.norm.weight == "offset":
            yield "key_maps.gguf: such files hold one and the weights together (norm.weight = offset); rules could"


def _rule_faults(layout: Layout, rules: tuple[str, ...]) -> Iterator[str]:
    for number, rule in enumerate(rules):
        try:
            parse_rule(rule)
        except KeyMapError as error:
            yield f"key_maps.{layout}.rules[{number}]: {error}"


def _names(spec: Spec, layout: Layout) -> Names:
    return names_of(spec.model, layout, "shared" if spec.norm.shared else spec.norm.order)


def _renamed(foreign: str, native: str) -> str:
    return f'rename("{foreign}", "{native}")'


def _drop(name: str, why: str | Drop) -> Rule:
    reason, when = (why, None) if isinstance(why, str) else (why.reason, why.when)
    return drop(name, reason=shorten(reason, 60, placeholder=" ..."), when=when)


def _with_copied_embedding(rules: list[str], output: str, embed: str, *, varies: bool) -> list[str]:
    """The rules for checkpoints that hold the output projection even where it is the embedding."""
    if not varies:
        return [*rules, f'tie("{output}", to="{embed}")']
    own = _renamed(output, OUTPUT)
    others = [rule for rule in rules if rule != own]
    switched = f'rename("{output}", "{OUTPUT}", unless="tied_embeddings")'
    return [*others, switched, f'tie("{output}", to="{embed}", when="tied_embeddings")']

"""Rules that hand tensors on to each other, as one rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from kinfold.errors import KeyMapError
from kinfold.keymap.ops import Composite, Node, Op
from kinfold.keymap.pattern import Pattern
from kinfold.keymap.rules import Resolve, Rule


def chain(*rules: Rule) -> Rule:
    """Several rules as one, from n tensors to m; what one gives, a later one may take.

    Names that are given by one rule and taken by another stand for nothing outside: any pattern with the holes of
    its neighbours will do. At most one hole may be run through (`over`); a rule between that has it on both sides
    is applied to each.

    Example:
        chain(
            transpose("h.{layer}.attn.c_attn.weight", "qkv.{layer}"),
            split("qkv.{layer}", into=("...q_proj.weight", "...k_proj.weight", "...v_proj.weight"), sizes=(...)),
        )

    Raises:
        KeyMapError: A name is given or taken twice, a rule gives nothing, or two holes are run through.
    """
    text = f"chain({', '.join(rule.text for rule in rules)})"
    taken = Counter(pattern.text for rule in rules for pattern in rule.sources)
    given = Counter(pattern.text for rule in rules for pattern in rule.targets)
    faults = [f"{name} is taken twice" for name, times in taken.items() if times > 1]
    faults += [f"{name} is given twice" for name, times in given.items() if times > 1]
    faults += [f"{rule} gives nothing" for rule in rules if not rule.targets]
    overs = {rule.over: rule.count for rule in rules if rule.over is not None}
    if len(overs) > 1:
        faults.append(f"it runs through more than one hole: {', '.join(sorted(overs))}")
    for number, rule in enumerate(rules):
        later = {pattern.text for other in rules[number:] for pattern in other.targets}
        faults += [f"{name} is taken before it is given" for name in map(str, rule.sources) if name in later]
    if faults or not rules:
        raise KeyMapError("A chain of rules is malformed:", faults=faults or ["there is no rule"])
    over, count = next(iter(overs.items()), (None, None))
    sources = tuple(pattern for rule in rules for pattern in rule.sources if pattern.text not in given)
    targets = tuple(pattern for rule in rules for pattern in rule.targets if pattern.text not in taken)
    return Rule(
        text,
        sources,
        targets,
        lambda resolve, times: _composite(rules, sources, targets, over, resolve, times),
        over=over,
        count=count,
    )


def _composite(
    rules: Sequence[Rule],
    sources: Sequence[Pattern],
    targets: Sequence[Pattern],
    over: str | None,
    resolve: Resolve,
    count: int,
) -> Op:
    values: dict[tuple[str, int | None], int] = {}  # by pattern, and the number in the hole that is run through

    def numbers(patterns: Sequence[Pattern], turn: int | None = None) -> tuple[int, ...]:
        turns = {pattern: range(count) if over in pattern.holes else (None,) for pattern in patterns}
        places = [(p.text, n) for p in patterns for n in ((turn,) if turn is not None else turns[p])]
        return tuple([values.setdefault(place, len(values)) for place in places])

    nodes = []
    for rule in rules:
        each = over is not None and rule.over is None and over in rule.sources[0].holes
        op = rule.make_op(resolve, count)
        turns = range(count) if each else (None,)
        nodes += [Node(op, numbers(rule.sources, turn), numbers(rule.targets, turn)) for turn in turns]
    return Composite(tuple(nodes), numbers(sources), numbers(targets))

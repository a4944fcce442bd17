"""What a family's key map knows already of a checkpoint whose tensors are called otherwise now."""

from __future__ import annotations

import re

from kinfold.keymap import KeyMap
from kinfold.keymap.ops import Op
from kinfold.keymap.rules import Rule
from kinfold.scaffold.keymap.diff import Drift
from kinfold.scaffold.keymap.native import NativeSide
from kinfold.scaffold.keymap.pairing import Pairing, RotaryOrder
from kinfold.scaffold.keymap.rules import rule_of
from kinfold.scaffold.keymap.settling.draft import Draft

_HOLE = re.compile(r"\{[^{}]*\}")

EVIDENCE = "as the map has had it, under other names"


class Prior:
    """A key map as evidence: what is only called otherwise is still treated as it was.

    Args:
        key_map: The map.
        drift: How the checkpoint differs from what it takes.
        native: The native side.
    """

    def __init__(self, key_map: KeyMap, drift: Drift, native: NativeSide) -> None:
        self._native = native
        self._givers = {target.text: rule for rule in key_map for target in rule.targets}
        self._called = {
            move.sources[0].text: move.targets[0].text
            for move in drift.moved
            if len(move.sources) == len(move.targets) == 1 and not move.relation.over
        }

    def settle(self, draft: Draft) -> Draft:
        """Settle each question of which a single answer is what the map has; in which order rows lie comes last."""
        for question in sorted(draft.questions, key=lambda question: question.answers[0].rotary is not None):
            turning = [pairing for pairing in draft.pairings if any(map(self._native.turns, pairing.targets))]
            fitting = []
            for answer in question.answers:
                orders: list[RotaryOrder] = [answer.rotary] if answer.rotary else ["halves", "interleaved"]
                pairings = turning if answer.rotary else answer.pairings
                if pairings and all(any(self._has(p, order) for order in orders) for p in pairings):
                    fitting.append(answer)
            if len(fitting) == 1:
                draft = draft.answered({question: fitting[0]}, EVIDENCE)
        return draft

    def _has(self, pairing: Pairing, order: RotaryOrder) -> bool:
        """Whether the map has a rule that does the same to the tensors that were there."""
        rule = rule_of(pairing, self._native, order)
        old = self._givers.get(rule.targets[0].text)
        if old is None or [p.text for p in old.targets] != [p.text for p in rule.targets]:
            return False
        sources = [self._called.get(group.text, group.text) for group in pairing.sources]
        return sources == [_HOLE.sub("{}", pattern.text) for pattern in old.sources] and self._op(rule) == self._op(old)

    def _op(self, rule: Rule) -> Op:
        return KeyMap(rule).bind(self._native.config).op(rule, 1)

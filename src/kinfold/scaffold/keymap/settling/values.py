"""Settling what is open by the values of both sides."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kinfold.checkpoint.manifest import Manifest
from kinfold.keymap import KeyMap, certify
from kinfold.keymap.plan import Read
from kinfold.scaffold.keymap.native import NativeSide
from kinfold.scaffold.keymap.pairing import Pairing, RotaryOrder
from kinfold.scaffold.keymap.rules import rule_of
from kinfold.scaffold.keymap.settling.draft import BY_VALUES, Draft

ORDERS: tuple[RotaryOrder, ...] = ("halves", "interleaved")


class Conversions:
    """What pairings make of the tensors of a checkpoint.

    Args:
        source: The manifest of the checkpoint.
        read: Gives a tensor of it by name.
        native: The native side.
    """

    def __init__(self, source: Manifest, read: Read, native: NativeSide) -> None:
        self._source, self._read, self._native = source, read, native

    def load(self, pairing: Pairing, order: RotaryOrder) -> Iterator[tuple[str, Tensor]]:
        """The native tensors of a pairing; nothing if its shapes do not go together."""
        key_map = KeyMap(rule_of(pairing, self._native, order)).bind(self._native.config)
        source = {group.name(place): info for group in pairing.sources for place, info in group.tensors.items()}
        target = {group.name(place): info for group in pairing.targets for place, info in group.tensors.items()}
        certificate = certify(key_map, source, target)
        return certificate.plan.load(self._read) if certificate.holds else iter(())

    def orders(self, pairing: Pairing) -> tuple[RotaryOrder, ...]:
        """The orders of rows that make a difference to a pairing."""
        return ORDERS if any(map(self._native.turns, pairing.targets)) else ORDERS[:1]


class Values:
    """The values of both sides, as evidence of what goes together.

    Args:
        conversions: The foreign side.
        native: Gives the native tensor of a name, with the same values.
    """

    def __init__(self, conversions: Conversions, native: Read) -> None:
        self._conversions = conversions
        self._native = native
        self._known: dict[tuple[Pairing, RotaryOrder], bool] = {}

    def fits(self, pairing: Pairing) -> bool:
        """Whether the values of a pairing are those of its targets, in some order of rows."""
        return any(self._agree(pairing, order) for order in self._conversions.orders(pairing))

    def settle(self, draft: Draft) -> Draft:
        """Settle the order of rows, by which the values of all that turns agree."""
        question = next((question for question in draft.questions if question.answers[0].rotary), None)
        if question is None:
            return draft
        turning = [pairing for pairing in draft.pairings if len(self._conversions.orders(pairing)) > 1]
        fitting = [
            answer
            for answer in question.answers
            if answer.rotary and all(self._agree(pairing, answer.rotary) for pairing in turning)
        ]
        return draft.answered({question: fitting[0]}, BY_VALUES) if len(fitting) == 1 else draft

    def _agree(self, pairing: Pairing, order: RotaryOrder) -> bool:
        key = pairing, order
        if key not in self._known:
            names = {group.name(place) for group in pairing.targets for place in group.tensors}
            found = self._conversions.load(pairing, order)
            self._known[key] = (
                all(
                    names.discard(name) is None and torch.equal(tensor.double(), self._native(name).double())
                    for name, tensor in found
                )
                and not names
            )
        return self._known[key]

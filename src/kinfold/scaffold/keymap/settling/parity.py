"""Settling what is open by a reference: the way to put the map together that computes its logits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from math import prod

import torch
from torch import Tensor, nn
from torch.func import functional_call

from kinfold.scaffold.keymap.native import FamilySide
from kinfold.scaffold.keymap.pairing import Answer, Pairing, RotaryOrder
from kinfold.scaffold.keymap.settling.draft import Draft
from kinfold.scaffold.keymap.settling.values import ORDERS, Conversions
from kinfold.scaffold.prove.parity import relative_gap
from kinfold.scaffold.prove.reference import Reference

MOST_TRIES = 20_000
"""How many ways to put a map together are tried against a reference."""

PREFIX = 8
"""How many tokens they are tried on; what fits is then held against all of them."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What a reference says of a draft.

    Attributes:
        draft: The draft, with what the reference settles.
        agrees: Whether some way to complete it computes the reference's logits; None if that was not tried.
        outcome: The same for a person.
    """

    draft: Draft
    agrees: bool | None
    outcome: str


def settle_by_parity(
    draft: Draft, conversions: Conversions, native: FamilySide, reference: Reference, *, tolerance: float
) -> Trial:
    """Try every combination of answers against a reference, in float64.

    Args:
        draft: What is settled and what is open.
        conversions: The foreign side.
        native: The family's model.
        reference: Logits that were computed from the same weights.
        tolerance: How far logits may be apart, relative to the largest.

    Returns:
        What came of it; the draft with what the reference settles.
    """
    tries = prod(len(question.answers) for question in draft.questions)
    if draft.never_filled:
        return Trial(draft, None, "nothing could be tried, since parameters are left that nothing fills")
    if tries > MOST_TRIES or not all(question.complete for question in draft.questions):
        return Trial(draft, None, f"more than {MOST_TRIES} ways to put it together are too many to try")
    search = _Search(draft, conversions, native.create())
    short = reference.shortened(PREFIX)
    fitting, nearest = [], float("inf")
    for answers in product(*(question.answers for question in draft.questions)):
        gap = search.gap(answers, short)
        nearest = min(nearest, gap)
        if gap <= tolerance and search.gap(answers, reference) <= tolerance:
            fitting.append(answers)
    if not fitting:
        said = f"none of {tries} ways computes" if tries > 1 else "the map does not compute"
        return Trial(draft, False, f"{said} the logits of {reference.origin}: {nearest:.0e} of the largest apart")
    left = [tuple(a for a in q.answers if any(fit[n] is a for fit in fitting)) for n, q in enumerate(draft.questions)]
    found = [replace(question, answers=answers) for question, answers in zip(draft.questions, left, strict=True)]
    ways = f"{len(fitting)} of {tries} ways compute" if len(fitting) > 1 else f"one of {tries} ways computes"
    said = ways if tries > 1 else "the map computes"
    evidence = f"{said} the logits of {reference.origin}"
    draft = replace(draft, questions=tuple(found))
    draft = draft.answered({q: q.answers[0] for q in found if len(q.answers) == 1}, evidence)
    return Trial(draft, True, evidence)


class _Search:
    """A model whose parameters are exchanged from one combination of answers to the next."""

    def __init__(self, draft: Draft, conversions: Conversions, model: nn.Module) -> None:
        self._draft = draft
        self._conversions = conversions
        self._model = model.eval()
        self._names = {name for name, _ in model.named_parameters()}
        self._known: dict[tuple[int, RotaryOrder], dict[str, Tensor]] = {}

    def gap(self, answers: Iterable[Answer], reference: Reference) -> float:
        """How far the logits are from the reference's, relative to the largest."""
        answers = tuple(answers)
        orders: list[RotaryOrder] = [answer.rotary for answer in answers if answer.rotary]
        order = orders[0] if orders else self._draft.rotary[0] if self._draft.rotary else ORDERS[0]
        parameters: dict[str, Tensor] = {}
        for pairing in (*self._draft.pairings, *(pairing for answer in answers for pairing in answer.pairings)):
            parameters |= self._loaded(pairing, order)
        if not self._names <= parameters.keys():  # an answer that leaves some unfilled
            return float("inf")
        with torch.inference_mode():
            logits = functional_call(self._model, parameters, reference.inputs, tie_weights=False)
        return relative_gap(logits, reference.logits)

    def _loaded(self, pairing: Pairing, order: RotaryOrder) -> Mapping[str, Tensor]:
        key = id(pairing), order if order in self._conversions.orders(pairing) else ORDERS[0]
        if key not in self._known:
            loaded = self._conversions.load(pairing, key[1])
            self._known[key] = {name: tensor.double() for name, tensor in loaded}
        return self._known[key]

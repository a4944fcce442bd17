"""Trying candidates: of all the ways to answer what is open, the one that computes what a reference computed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import torch
from torch import Tensor, nn

from kinfold.checkpoint import Checkpoint, total_numel
from kinfold.errors import KinfoldError
from kinfold.scaffold.keymap.render import key_map_rules
from kinfold.scaffold.prove.parity import relative_gap
from kinfold.scaffold.prove.reference import Reference
from kinfold.scaffold.reading.facts import Answer, Question
from kinfold.scaffold.reading.mapping import module_names
from kinfold.scaffold.reading.read import Reading
from kinfold.scaffold.render.memory import load_family
from kinfold.scaffold.spec.schema import Spec, check_spec

MOST_CHANGES = 4
"""How many assumptions at once may be wrong."""

LARGE = 250_000_000
"""How many weights are computed with in float64; more than that in float32."""

SAME = 1e-8
"""How near logits are that are the same but for rounding."""

MOST_SECONDS = 120.0
"""How long is searched."""

Choice = Mapping[int, int]
"""The number of the answer to each question, by the question's number, where it is not the first."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of one candidate.

    Attributes:
        agrees: Whether its logits are those of the reference.
        gap: How far they are apart, relative to the largest.
        agreeing: How many of the modules that the reference recorded agree.
        differs: The first module that does not.
    """

    agrees: bool
    gap: float
    agreeing: int = 0
    differs: str = ""


def precise_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """What to compute in: float64, or float32 with many weights."""
    return torch.float32 if total_numel(checkpoint.manifest) > LARGE else torch.float64


class Search:
    """Candidates, tried one by one against a reference."""

    def __init__(
        self, reading: Reading, checkpoint: Checkpoint, reference: Reference, tolerance: float, until: float
    ) -> None:
        self._reading = reading
        self._reference = reference
        self._tolerance = tolerance
        self._until = until
        self._tensors = {name: checkpoint.tensor(name) for name in checkpoint.manifest}
        self._dtype = precise_dtype(checkpoint)
        self._loaded: tuple[list[str], dict[str, Tensor]] = [], {}
        self._known: dict[frozenset[tuple[int, int]], Trial] = {}
        self._specs: dict[Any, Trial] = {}

    @property
    def tried(self) -> int:
        """How many candidates were built."""
        return len(self._specs)

    def run(self) -> tuple[Choice, Trial]:
        """The answers that fit, or those that come nearest, and what came of them."""
        choice: Choice = {}
        best = self._try(choice)
        while not best.agrees:
            better = self._better(choice, best)
            if better is None:
                break
            choice, best = better
        return self._nearest(choice, best)

    def not_told_apart(self, choice: Choice, best: Trial) -> list[int]:
        """The questions to which another answer computes the same logits, by another spec."""
        found = []
        for number, question in enumerate(self._reading.questions):
            others = (a for a in range(len(question.answers)) if a != choice.get(number, 0) and not question.doubted)
            for answer in others:
                if time.monotonic() > self._until:
                    return found
                trial = self._try({**choice, number: answer})
                if trial.agrees and trial is not best and trial.gap <= max(2 * best.gap, SAME):
                    found.append(number)
                    break
        return found

    def other_answers(self, choice: Choice, number: int) -> Iterator[tuple[Answer, str]]:
        """The other answers to a question, and how far apart logits are with each; where they were tried."""
        answers = self._reading.questions[number].answers
        for other in range(len(answers)):
            tried = self._known.get(frozenset({**choice, number: other}.items()))
            if other != choice.get(number, 0) and tried is not None:
                yield answers[other], f"{tried.gap:.0e}"

    def _nearest(self, choice: Choice, best: Trial) -> tuple[Choice, Trial]:
        """A candidate that agrees, with what brings it much nearer to the reference still: one change at a time."""
        while best.agrees and time.monotonic() < self._until:
            candidates = [_merged(choice, changes) for changes in _changes(self._reading.questions, 1)]
            gaps = [(self._try(candidate).gap, number) for number, candidate in enumerate(candidates)]
            gap, number = min(gaps, default=(best.gap, 0))
            if gap > best.gap / 10 or best.gap <= SAME:
                break
            choice = candidates[number]
            best = self._try(choice)
        return choice, best

    def _better(self, choice: Choice, best: Trial) -> tuple[Choice, Trial] | None:
        """The candidate with the fewest changes that agrees, or in which more modules agree."""
        for count in range(1, MOST_CHANGES + 1):
            improved: tuple[Choice, Trial] | None = None
            for changes in _changes(self._reading.questions, count):
                if time.monotonic() > self._until:
                    return improved
                candidate = _merged(choice, changes)
                trial = self._try(candidate)
                if trial.agrees:
                    return candidate, trial
                if trial.agreeing > (improved[1] if improved else best).agreeing:
                    improved = candidate, trial
            if improved is not None:
                return improved
        return None

    def _try(self, choice: Choice) -> Trial:
        key = frozenset(choice.items())
        if key not in self._known:
            self._known[key] = self._run(choice)
        return self._known[key]

    def _run(self, choice: Choice) -> Trial:
        reading = self._reading
        for number, question in enumerate(reading.questions):
            if number in choice:
                reading = reading.with_answer(question.answers[choice[number]])
        try:
            spec = reading.spec
            check_spec(spec, place=reading.place)
        except (KinfoldError, ValueError):  # answers that exclude each other
            return Trial(False, float("inf"))
        if (text := repr(spec)) not in self._specs:
            try:
                self._specs[text] = self._compare(self._model(spec), self._expected(spec))
            except (KinfoldError, RuntimeError):  # that do not go together with these shapes
                self._specs[text] = Trial(False, float("inf"))
        return self._specs[text]

    def _model(self, spec: Spec) -> nn.Module:
        """The model of a candidate, with the checkpoint's weights."""
        layout = self._reading.layout
        family = load_family("candidate", spec)
        config = family.archs.get()
        model = family.create(config, device="meta")
        rules = key_map_rules(spec, layout)
        if self._loaded[0] != rules:  # mostly the key map is that of the candidate before
            native = family.converter.load(self._tensors, config, layout=layout)
            self._loaded = rules, {name: tensor.to(self._dtype) for name, tensor in native.items()}
        model.load_state_dict(self._loaded[1], assign=True)
        return model.eval()

    def _expected(self, spec: Spec) -> dict[str, Tensor]:
        """What modules of ours should give, by their names."""
        foreign = self._reference.foreign
        named = module_names(self._reading.roles, spec)
        return {**self._reference.modules, **{ours: foreign[theirs] for theirs, ours in named if theirs in foreign}}

    def _compare(self, model: nn.Module, expected: Mapping[str, Tensor]) -> Trial:
        reference = self._reference
        captured: dict[str, Tensor] = {}  # in the order in which they are computed
        handles = [model.get_submodule(name).register_forward_hook(_keep(captured, name)) for name in expected]
        try:
            with torch.inference_mode():
                logits = model(*reference.inputs)
        finally:
            for handle in handles:
                handle.remove()
        if logits.shape != reference.logits.shape:
            return Trial(False, float("inf"))
        gap = relative_gap(logits, reference.logits)
        differing = [
            name
            for name, ours in captured.items()
            if ours.shape != expected[name].shape or relative_gap(ours, expected[name]) > self._tolerance
        ]
        agreeing = len(captured) - len(differing)
        return Trial(gap <= self._tolerance, gap, agreeing, differing[0] if differing else "")


def _keep(captured: dict[str, Tensor], name: str):
    return lambda module, args, output: captured.__setitem__(name, output)


def _changes(questions: Sequence[Question], count: int) -> Iterator[Choice]:
    """All ways to answer so many questions otherwise, the likeliest first: later answers are less likely."""
    found = []
    able = [number for number, question in enumerate(questions) if count <= 2 or not question.doubted]
    for numbers in combinations(able, count):
        others = (range(1, len(questions[number].answers)) for number in numbers)
        found += [dict(zip(numbers, answers, strict=True)) for answers in product(*others)]
    return iter(sorted(found, key=lambda changes: sum(changes.values()) + sum(questions[n].doubted for n in changes)))


def _merged(choice: Choice, changes: Choice) -> Choice:
    return {**choice, **changes}

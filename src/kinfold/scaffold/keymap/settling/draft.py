"""A key map that may have gaps: what names and shapes settle, and what they leave open."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from kinfold.scaffold.keymap.inference.groups import Group
from kinfold.scaffold.keymap.inference.infer import Decision, Inference
from kinfold.scaffold.keymap.inference.words import Vocabulary
from kinfold.scaffold.keymap.native import NativeSide
from kinfold.scaffold.keymap.pairing import Answer, Pairing, Question, RotaryOrder
from kinfold.scaffold.keymap.settling.candidates import Candidates
from kinfold.scaffold.keymap.settling.fused_layouts import fused_questions
from kinfold.scaffold.keymap.settling.matchings import components, find_matchings
from kinfold.scaffold.keymap.settling.transposing import layers_transposed, settle_squares

MOST_ANSWERS = 5000
"""How many answers a question may have and still be tried one by one."""

BY_SHAPE = 0.95
"""The confidence of what shapes alone allow, whatever the names are."""

BY_VALUES = "the values of both sides agree"
"""The evidence of what was settled by values."""

Fits = Callable[[Pairing], bool]
"""Whether the values of a pairing go together."""

Rotary = tuple[RotaryOrder, str]
"""How the rows of queries and keys lie there, and why."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A key map that may have gaps.

    Attributes:
        pairings: What is settled.
        questions: What is not.
        rotary: How the rows of queries and keys lie there; None if nothing turns, or that is a question.
        unused: Foreign groups in none of the pairings.
        unfilled: Native groups in none of the pairings.
    """

    pairings: tuple[Pairing, ...]
    questions: tuple[Question, ...]
    rotary: Rotary | None
    unused: tuple[Group, ...]
    unfilled: tuple[Group, ...]

    @property
    def never_filled(self) -> tuple[Group, ...]:
        """Native groups that no answer to any question fills."""
        open_ = {
            group
            for question in self.questions
            for answer in question.answers
            for pairing in answer.pairings
            for group in pairing.targets
        }
        return tuple(group for group in self.unfilled if group not in open_)

    def answered(self, answers: Mapping[Question, Answer], evidence: str = "") -> Draft:
        """The draft with questions settled; the answers' own evidence stays where none is given."""
        found = [pairing for answer in answers.values() for pairing in answer.pairings]
        if evidence:
            found = [replace(pairing, evidence=evidence, confidence=1.0) for pairing in found]
        orders: list[Rotary] = [(answer.rotary, evidence) for answer in answers.values() if answer.rotary]
        used = {group for pairing in found for group in pairing.groups}
        return Draft(
            (*self.pairings, *found),
            tuple(question for question in self.questions if question not in answers),
            orders[0] if orders else self.rotary,
            tuple(group for group in self.unused if group not in used),
            tuple(group for group in self.unfilled if group not in used),
        )


def draft_of(
    inference: Inference,
    native: NativeSide,
    vocabulary: Vocabulary,
    *,
    rotary: Rotary | None = None,
    fits: Fits | None = None,
    nested: bool = True,
) -> Draft:
    """Sort what was inferred into what is settled and what is open.

    Args:
        inference: What names and shapes say.
        native: The native side.
        vocabulary: What words mean.
        rotary: How the rows of queries and keys lie, where that is known.
        fits: Whether the values of a pairing go together, where these are known; answers that do not fit are left out.
        nested: Whether modules that nest alike go together, where they can.
    """
    decided = [_pairing(decision) for decision in inference.decisions if decision.sure]
    plain, questions = settle_squares(decided)
    fused = [pairing for pairing in plain if pairing.fused]
    settled = [pairing for pairing in plain if not pairing.fused]
    questions += fused_questions(fused, native)
    if fits is not None:  # values outweigh names
        settled = [_by_values(pairing) for pairing in settled if fits(pairing)]
        questions = [question for question in (_fitting(question, fits) for question in questions) if question.answers]
    asked = [pairing for question in questions for answer in question.answers for pairing in answer.pairings]
    known = {group for pairing in (*settled, *asked) for group in pairing.groups}
    sides = all_groups(inference)
    sources, targets = ([group for group in side if group not in known] for side in sides)
    candidates = Candidates(sources, targets, inference.lists, vocabulary)
    edges = list(_possible(candidates, layers_transposed(decided), settled, native, fits))
    for part in components(dict.fromkeys(pairing for pairings in edges for pairing in pairings)):
        question = _assignment(part, edges, settled, nested=nested, by_values=fits is not None)
        questions += [question] if question.answers else []
    if rotary is None and any(map(native.turns, sides[1])):
        orders = (Answer(rotary="halves"), Answer(rotary="interleaved"))
        questions.append(Question("in which order the rows of queries and keys lie", orders))
    used = {group for pairing in settled for group in pairing.groups}
    unused, unfilled = (tuple(group for group in side if group not in used) for side in sides)
    draft = Draft(tuple(settled), tuple(questions), rotary, unused, unfilled)
    return draft.answered({q: q.answers[0] for q in draft.questions if len(q.answers) == 1 and q.complete})


def all_groups(inference: Inference) -> tuple[tuple[Group, ...], tuple[Group, ...]]:
    """Every foreign group, and every native one."""
    sources = [group for decision in inference.decisions for group in decision.sources]
    targets = [group for decision in inference.decisions for group in decision.targets]
    return (*sources, *inference.unused), (*targets, *inference.unfilled)


def _pairing(decision: Decision) -> Pairing:
    return Pairing(
        decision.sources,
        decision.targets,
        decision.relation,
        decision.dim,
        evidence=decision.evidence,
        confidence=decision.confidence,
    )


def _possible(
    candidates: Candidates,
    transposed: bool | None,
    settled: Sequence[Pairing],
    native: NativeSide,
    fits: Fits | None,
) -> Iterator[list[Pairing]]:
    """What could go together, of parts that can be filled in whole.

    A layout has either all matrices of its layers transposed or none; where shapes allow both, there are two lists.
    """
    found: list[list[Pairing]] = []
    for flag in [False, True] if transposed is None else [transposed]:
        possible = candidates.pairings(native, layers_transposed=flag)
        parts = components(pairing for pairing in possible if fits is None or fits(pairing))
        found.append([pairing for part in parts if find_matchings(part, settled).found for pairing in part])
    most = max(len(_filled(pairings)) for pairings in found)
    yield from (pairings for pairings in found if len(_filled(pairings)) == most)


def _assignment(
    part: Sequence[Pairing],
    possible: Sequence[Sequence[Pairing]],
    settled: Sequence[Pairing],
    *,
    nested: bool,
    by_values: bool,
) -> Question:
    """Which is which of some groups that names do not settle; those of which some choice fills all."""
    choices = [[pairing for pairing in part if pairing in set(pairings)] for pairings in possible]
    choices = [choice for choice in choices if _filled(choice) == _filled(part)]
    ways: dict[tuple[Pairing, ...], None] = {}
    complete = True
    for nest in [True, False] if nested else [False]:
        if not ways:
            searches = [find_matchings(choice, settled, nested=nest, most=MOST_ANSWERS) for choice in choices]
            ways = dict.fromkeys(chain.from_iterable(search.found for search in searches))
            complete = all(search.complete for search in searches)
    shapes = "the only one of its shape" if len(part) == 1 else "the only way in which shapes and modules go together"
    evidence, sure = (BY_VALUES, 1.0) if by_values else (shapes, BY_SHAPE)
    answers = [Answer(tuple(replace(pairing, evidence=evidence, confidence=sure) for pairing in way)) for way in ways]
    about = f"which is which of {', '.join(dict.fromkeys(group.text for p in part for group in p.targets))}"
    return Question(about, tuple(answers), complete)


def _by_values(pairing: Pairing) -> Pairing:
    return replace(pairing, evidence=f"{pairing.evidence}; {BY_VALUES}", confidence=1.0)


def _fitting(question: Question, fits: Fits) -> Question:
    """The question with those answers alone whose values go together."""
    return replace(question, answers=tuple(answer for answer in question.answers if all(map(fits, answer.pairings))))


def _filled(pairings: Iterable[Pairing]) -> set[Group]:
    return {group for pairing in pairings for group in pairing.targets}

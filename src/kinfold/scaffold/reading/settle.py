"""Settling what is open by a reference: of all a checkpoint could be, what computes the reference's outputs.

The family of each candidate is rendered in memory and given the checkpoint's tensors. Where the reference recorded
what its modules gave, candidates are led by how many of them agree, front to back; with logits alone all of them are
tried, the likeliest first.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from kinfold.checkpoint import Checkpoint, total_numel
from kinfold.errors import ProofError
from kinfold.scaffold.prove.reference import Reference, read_reference, run_transformers
from kinfold.scaffold.reading.facts import ASSUMED, Answer
from kinfold.scaffold.reading.read import Reading
from kinfold.scaffold.reading.search import MOST_SECONDS, Search, Trial, precise_dtype


@dataclass(frozen=True, slots=True)
class Settled:
    """The outcome of a search.

    Attributes:
        reading: The reading, with what the reference settled.
        best: What came of the best candidate.
        lines: What was found, for a person.
    """

    reading: Reading
    best: Trial
    lines: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """Whether some candidate computes the reference's logits."""
        return self.best.agrees


def settled(
    reading: Reading, checkpoint: Checkpoint, *, reference: Path | None, against: str | None, allow_open: bool
) -> Reading:
    """A reading with what is open settled by the reference that there is.

    Args:
        reading: What the checkpoint says.
        checkpoint: The checkpoint.
        reference: Recorded logits; those in the checkpoint's folder if None.
        against: "transformers", "nothing", or None: recorded logits if there are, else transformers if installed.
        allow_open: Go on where no candidate computes the logits.

    Raises:
        ProofError: No candidate computes the logits, or the reference that was asked for cannot be had.
    """
    if reference is None and against is None and (needed := bytes_needed(checkpoint)) > free_memory():
        size = f"that would take {needed / 2**30:.0f} GiB of memory"
        line = f"Not compared with a reference: {size}; `--reference FILE` or `--against transformers` insists"
        return replace(reading, search=(line,))
    outcomes: list[Settled] = []
    for known in _references(checkpoint, reference, against):
        outcomes.append(settle(reading, checkpoint, known))
        if outcomes[-1].agrees:
            return replace(outcomes[-1].reading, search=outcomes[-1].lines)
    lines = tuple(line for outcome in outcomes for line in outcome.lines)
    if outcomes and not allow_open:
        raise ProofError(
            f"{checkpoint.path} is read, but not as its reference computes:",
            faults=[*lines, *(f"open: {question.about}" for question in reading.questions)],
            hint="`--allow-open` writes the family all the same.",
        )
    return replace(reading, search=lines)


def bytes_needed(checkpoint: Checkpoint) -> int:
    """How much memory it takes to compare with a reference: the weights as they are computed with, and half again."""
    return total_numel(checkpoint.manifest) * precise_dtype(checkpoint).itemsize * 3 // 2


def free_memory() -> float:
    """How much memory there is to be had, in bytes; no limit where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return float("inf")
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), float("inf"))


def _references(checkpoint: Checkpoint, path: Path | None, against: str | None) -> Iterator[Reference]:
    """The references there are, the quickest first."""
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    recorded = path or folder / "reference.safetensors"
    if against is None and (path is not None or recorded.is_file()):
        yield read_reference(recorded)
    dtype = str(precise_dtype(checkpoint)).removeprefix("torch.")
    if against == "transformers":
        yield run_transformers(checkpoint.path, dtype=dtype)
    elif against is None and path is None and find_spec("transformers") is not None:
        try:
            yield run_transformers(checkpoint.path, dtype=dtype)
        except ProofError:  # which nobody has asked for
            return


def settle(
    reading: Reading,
    checkpoint: Checkpoint,
    reference: Reference,
    *,
    tolerance: float = 1e-4,
    seconds: float = MOST_SECONDS,
) -> Settled:
    """Find the answers with which the family computes what a reference computed from the same weights.

    Args:
        reading: What the checkpoint says, and what is open.
        checkpoint: Its tensors.
        reference: Token ids and logits, and maybe outputs of modules.
        tolerance: How far logits may be apart, relative to the largest.
        seconds: How long is searched.
    """
    search = Search(reading, checkpoint, reference, tolerance, time.monotonic() + seconds)
    choice, best = search.run()
    gap = f"{best.gap:.1e} of the largest apart"
    if not best.agrees:
        where = f"; {best.differs} is the first module that differs" if best.differs else ""
        line = f"none of {search.tried} candidates computes the logits of {reference.origin}: {gap}{where}"
        return Settled(reading, best, (line,))
    found = reading
    untold = search.not_told_apart(choice, best)
    for number, question in enumerate(reading.questions):
        if number not in choice and (number in untold or question.doubted):
            continue
        evidence = f"parity with {reference.origin} ({search.tried} candidates tried)"
        if number in untold:
            evidence = f"{ASSUMED}: among those that compute the logits of {reference.origin}"
        found = found.with_answer(question.answers[choice.get(number, 0)], evidence)
    unsettled = {name for number in untold for answer in reading.questions[number].answers for name in answer}
    for name, fact in found.facts.items():
        if fact.assumed and name not in unsettled and name not in _BEYOND_LOGITS:
            found = found.with_answer({name: fact.value}, f"parity with {reference.origin}, as it was assumed")
    lines = [f"Parity with {reference.origin}: logits {gap} ({search.tried} candidates tried)"]
    for number, answer in sorted(choice.items()):
        question = reading.questions[number]
        others = ", ".join(f"{_words(other)} ({gap})" for other, gap in search.other_answers(choice, number))
        lines.append(f"  {question.about}: {_words(question.answers[answer])}; not {others}")
    left = tuple(reading.questions[number] for number in untold)
    lines += [f"  {question.about}: not told apart by this reference" for question in left]
    return Settled(replace(found, questions=left), best, tuple(lines))


_BEYOND_LOGITS = frozenset({"max_seq_len"})
"""Facts that logits say nothing about."""


def _words(answer: Answer) -> str:
    return ", ".join(f"{name} = {value}" for name, value in answer.items())

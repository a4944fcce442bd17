"""The outcome of trials, as lines and as docs/coverage.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from zoo.families import VARIED, data, passes
from zoo.trial import Trial

FAULTS_SHOWN = 3
INTRODUCTION = (
    "Written by `make coverage`, not by hand. For every dense decoder of transformers, transformers itself writes a",
    "tiny checkpoint with random weights, and the logits of 2 x 24 tokens. Of each, `scaffold new-family NAME --from",
    "CHECKPOINT` makes a family; by these logits it settles what neither config nor shapes say. Then `scaffold verify",
    "NAME --reference FILE` compares its logits of 2 x 40 other tokens with those of transformers (float64, at most",
    "1e-4 of the largest apart), and every tensor that it exports with the checkpoint, bit for bit. Last, a model is",
    "sharded over 2, 4 and 8 ranks, all of which one process pretends to be: the parts that they have make up the",
    "whole, bit for bit, or an error says what cannot be divided among so many; with eight times as many heads, and",
    "eight times as wide, all can. Seconds are those of both commands, on two cores that try two families at a time.",
    "The same is done in memory, and over 2 ranks, with other sizes and options of each family: the variations of",
    "`tests/zoo/variations.py`.",
)


def line(trial: Trial) -> str:
    """One trial in a line of the terminal, as soon as it has ended."""
    seconds = " + ".join(f"{value:.1f}" for value in trial.seconds.values())
    if not trial.holds:
        return f"FAIL {trial.name:24} {seconds:>10} s  {why_not(trial)}"
    found = f"parity {trial.parity:.0e}, {trial.round_trip}, ranks: {ranks(trial)}"
    return f"ok   {trial.name:24} {seconds:>10} s  {found}; {trial.spec or 'as a Llama'}; {_open(trial)}"


def ranks(trial: Trial) -> str:
    """Over how many ranks a model can be spread, and what is in the way of the others: `2, 4; not 8: 4 query heads`."""
    whole = ", ".join(number for number, faults in trial.indivisible.items() if not faults)
    others = [f"not {number}: {_number(faults[0])}" for number, faults in trial.indivisible.items() if faults]
    return "; ".join([*([whole] if whole else []), *others])


def _number(fault: str) -> str:
    """What a fault says cannot be divided, without where: `4 query heads`."""
    return fault.partition(": ")[2].partition(" cannot")[0]


def why_not(trial: Trial) -> str:
    """Why a trial failed: the error, and its first faults."""
    shown = "; ".join(trial.faults[:FAULTS_SHOWN])
    more = len(trial.faults) - FAULTS_SHOWN
    return f"{trial.reason} {shown}{f'; and {more} more' if more > 0 else ''}".strip()


def summary(trials: Sequence[Trial]) -> str:
    """How many of how many pass."""
    return f"{sum(trial.holds for trial in trials)} of {len(trials)} pass"


def page(trials: Sequence[Trial]) -> str:
    """docs/coverage.md of these trials."""
    families = [trial for trial in trials if VARIED not in trial.name]
    failing = [trial for trial in trials if not trial.holds and (trial in families or passes(trial.name))]
    varied = [trial for trial in trials if VARIED in trial.name and passes(trial.name)]
    seconds = [sum(trial.seconds.values()) for trial in families if trial.holds]
    return "\n".join(
        [
            "# Coverage",
            "",
            *INTRODUCTION,
            "",
            f"{summary(families)} of the dense decoders of transformers; {_time(seconds)}. Of the variations of those",
            f"that pass, {summary(varied)}." if varied else "that pass, none was tried.",
            "",
            "## What one command takes",
            "",
            *_table(
                _COLUMNS,
                (_passing_row(trial, _variations(trial, trials)) for trial in families if trial.holds),
            ),
            "",
            "## What it does not take",
            "",
            *_table(("checkpoint", "why", "what is said"), (_failing_row(trial) for trial in failing)),
            "",
            "## What is not tried",
            "",
            *_table(("families", "why"), _untried()),
            "",
        ]
    )


_COLUMNS = (
    "family", "beyond sizes", "certificate", "parity", "round trip", "ranks", "seconds", "variations", "assumed"
)  # fmt: skip


def _passing_row(trial: Trial, variations: Sequence[Trial]) -> tuple[str, ...]:
    return (
        trial.name,
        trial.spec,
        trial.certificate,
        f"{trial.parity:.0e}",
        trial.round_trip,
        ranks(trial),
        f"{sum(trial.seconds.values()):.0f}",
        summary(variations) if variations else "",
        ", ".join(trial.open),
    )


def _failing_row(trial: Trial) -> tuple[str, ...]:
    return trial.name, data()["lacking"].get(trial.name, ""), why_not(trial)


def _variations(family: Trial, trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.name.startswith(f"{family.name}{VARIED}")]


def _time(seconds: Sequence[float]) -> str:
    """How long those took that pass."""
    return f"making and verifying a family takes {median(seconds):.0f} s" if seconds else "no family was made"


def _untried() -> Iterable[tuple[str, ...]]:
    for name, group in data()["groups"].items():
        if name != "dense":
            yield (", ".join(group["families"]), group["reason"])


def _open(trial: Trial) -> str:
    return f"assumed: {', '.join(trial.open)}" if trial.open else "nothing open"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    cells = (row for row in (head, ["---"] * len(head), *rows))
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]

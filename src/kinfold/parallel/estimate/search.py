"""The smallest layouts that fit a device."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, takewhile

from kinfold.errors import ParallelError
from kinfold.parallel.estimate.layout import Layout
from kinfold.parallel.estimate.memory import KINDS, Estimator, RankMemory, readable

IN_A_NODE = 8
"""Ranks that are near one another: as many share tensors at most, and larger numbers of ranks are multiples of it."""

MOST_RANKS = 4096


@dataclass(frozen=True, slots=True)
class Fit:
    """A layout that fits, and its fullest rank."""

    layout: Layout
    fullest: RankMemory


@dataclass(frozen=True, slots=True)
class Search:
    """What came out.

    Attributes:
        fitting: The smallest layout of each number of ranks for tensors and of stages, the best one first.
        ruled_out: What was tried in vain, and why.
    """

    fitting: tuple[Fit, ...]
    ruled_out: tuple[str, ...]


def smallest_layouts(estimator: Estimator, device_memory: int, *, most_ranks: int = MOST_RANKS) -> Search:
    """The layouts with the fewest ranks whose fullest rank fits a device.

    Among layouts of as many ranks one is better that has fewer stages, and then one that shares tensors among fewer
    ranks: FSDP has the least to wait for. Numbers of ranks are 1, 2, 4 and multiples of 8.

    Args:
        estimator: Of the model.
        device_memory: The bytes of a device.
        most_ranks: How many ranks to try at most.

    Raises:
        ParallelError: None fits, or the model cannot compute that at all; says what was tried.
    """
    if faults := estimator.faults(Layout()):
        raise ParallelError("There is nothing to estimate:", faults=faults)
    tried: list[Fit] = []
    indivisible: dict[str, None] = {}
    for pp in _doubling(most_ranks):
        if faults := estimator.faults(Layout(pp=pp)):
            indivisible |= dict.fromkeys(faults)
            break  # of more stages they are the same
        for tp in _doubling(min(IN_A_NODE, most_ranks // pp)):
            if faults := estimator.faults(Layout(tp=tp)):
                indivisible |= dict.fromkeys(faults)
            else:
                tried.append(_smallest(estimator, tp, pp, device_memory, most_ranks))
    fitting = [fit for fit in tried if fit.fullest.total <= device_memory]
    too_full = [fit for fit in tried if fit.fullest.total > device_memory]
    if not fitting:
        nearest = sorted(too_full, key=lambda fit: fit.fullest.total)[:3]
        raise ParallelError(
            f"No layout of up to {most_ranks:,} ranks fits {readable(device_memory)}. These come nearest:",
            faults=[*map(_too_full, nearest), *indivisible],
            hint="Shorter sequences, fewer of them, sequence parallel or activation checkpointing need less.",
        )
    fitting.sort(key=lambda fit: (fit.layout.ranks, fit.layout.pp, fit.layout.tp))
    return Search(tuple(fitting), (*indivisible, *map(_too_full, too_full)))


def _smallest(estimator: Estimator, tp: int, pp: int, device_memory: int, most_ranks: int) -> Fit:
    """The fewest ranks that fit, or the most ranks where none do: the more share the data, the less each has."""

    def fit(dp: int) -> Fit:
        layout = Layout(tp, dp, pp)
        return Fit(layout, estimator.fullest(layout))

    dps = [ranks // (tp * pp) for ranks in _numbers_of_ranks(most_ranks) if ranks % (tp * pp) == 0]
    alone = fit(dps[0])
    if alone.fullest.total <= device_memory or len(dps) == 1:
        return alone
    place = bisect_left(dps, True, lo=1, key=lambda dp: fit(dp).fullest.total <= device_memory)
    return fit(dps[min(place, len(dps) - 1)])


def _numbers_of_ranks(most: int) -> list[int]:
    """Parts of a node, or whole nodes."""
    return [ranks for ranks in (1, 2, 4, *range(IN_A_NODE, most + 1, IN_A_NODE)) if ranks <= most]


def _doubling(most: int) -> Iterator[int]:
    return takewhile(lambda size: size <= most, (2**power for power in count()))


def _too_full(found: Fit) -> str:
    layout, most = found.layout, found.fullest
    kind = max(KINDS, key=lambda kind: getattr(most, kind))
    return (
        f"tp = {layout.tp}, pp = {layout.pp}: a rank needs {readable(most.total)} even with dp = {layout.dp}; "
        f"{readable(getattr(most, kind))} of it are {kind}"
    )

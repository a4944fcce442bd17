"""What `scaffold plan` shows: a table, and a strip for each rank."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import click

from kinfold.parallel.estimate import KINDS, Estimator, Layout, RankMemory, Search, readable
from kinfold.scaffold.cli.columns import columns

MOST_STRIPS = 16
"""How many ranks that need different amounts are shown; of more the fullest."""

MOST_FITS = 5
"""How many layouts that fit are shown."""

MOST_REASONS = 8
"""How many layouts that were ruled out are shown."""

WIDTH = 60
"""Of a strip of text."""

MARKS = {"parameters": "█", "gradients": "▓", "optimizer": "▒", "working": "▚", "activations": "░"}
"""What each kind of memory is drawn with where there are no colours."""

COLOURS = {
    "parameters": "#4269d0",
    "gradients": "#efb118",
    "optimizer": "#3ca951",
    "working": "#9c6b4e",
    "activations": "#ff725c",
}

FREE, END = "·", "|"
"""What is left of a device, and where it ends."""


@dataclass(frozen=True, slots=True)
class Alike:
    """Ranks that need the same.

    Attributes:
        memory: Of the first of them.
        ranks: All of them.
    """

    memory: RankMemory
    ranks: tuple[int, ...]

    @property
    def label(self) -> str:
        """Their numbers: "0-6, 8-14, ..."."""
        runs: list[list[int]] = []
        for rank in self.ranks:
            if runs and rank == runs[-1][1] + 1:
                runs[-1][1] = rank
            else:
                runs.append([rank, rank])
        shown = [str(first) if first == last else f"{first}-{last}" for first, last in runs[:3]]
        return ", ".join([*shown, *(["..."] if len(runs) > 3 else [])])


class Plan:
    """What came out, for people (`str`) and for programs (`as_data`).

    Args:
        title: Which model it is.
        estimator: Of the model.
        layout: How ranks are laid out.
        device_memory: The bytes of a device; None if that was not said.
        search: What else there was to choose from.
    """

    def __init__(
        self, title: str, estimator: Estimator, layout: Layout, device_memory: int | None, search: Search | None
    ) -> None:
        self.title = title
        self.layout = layout
        self.work = estimator.work
        self.device_memory = device_memory
        self.search = search
        self.num_parameters = estimator.num_parameters
        self.ranks = estimator.ranks(layout)

    @cached_property
    def alike(self) -> list[Alike]:
        """Ranks that need the same, together; in the order of their first ones."""
        found: dict[tuple[int, ...], list[RankMemory]] = {}
        for memory in self.ranks:
            found.setdefault((memory.stage, *(getattr(memory, kind) for kind in KINDS)), []).append(memory)
        return [Alike(same[0], tuple(memory.rank for memory in same)) for same in found.values()]

    @property
    def shown(self) -> list[Alike]:
        """Those of them that are shown: the fullest."""
        fullest = sorted(self.alike, key=lambda one: one.memory.total, reverse=True)[:MOST_STRIPS]
        return sorted(fullest, key=lambda one: one.memory.rank)

    @property
    def most(self) -> int:
        """What the fullest rank needs."""
        return max(one.memory.total for one in self.alike)

    @property
    def scale(self) -> int:
        """What a strip of full length stands for."""
        return max(self.most, self.device_memory or 0)

    @property
    def fits(self) -> bool:
        """Whether the fullest rank does; True where nobody said into what."""
        return self.device_memory is None or self.most <= self.device_memory

    @property
    def facts(self) -> list[str]:
        """The model, the layout and what is computed."""
        layout, work = self.layout, self.work
        sequences = "1 sequence" if work.batch_size == 1 else f"{work.batch_size} sequences"
        cut = f" in {count} microbatches" if (count := work.microbatches_of(layout)) > 1 else ""
        dtype = str(work.dtype).removeprefix("torch.")
        kept = f"training by {work.optimizer}" if work.trains else "decoding"
        checkpointing = work.activation_checkpointing and work.trains
        options = {"sequence parallel": work.sequence_parallel, "activation checkpointing": checkpointing}
        return [
            f"{self.title}: {self.num_parameters:,} parameters",
            f"{_layout(layout)}: {layout.ranks:,} rank{'s' * (layout.ranks > 1)}",
            ", ".join(
                [
                    f"{sequences} of {work.seq_len:,} tokens{cut}",
                    dtype,
                    kept,
                    *(name for name in options if options[name]),
                ]
            ),
        ]

    @property
    def verdict(self) -> str:
        """Whether it fits, in words."""
        if self.device_memory is None:
            return f"The fullest rank needs {readable(self.most)}."
        left = self.device_memory - self.most
        said = f"{readable(left)} are left" if left >= 0 else f"{readable(-left)} too much"
        return f"The fullest rank needs {readable(self.most)} of {readable(self.device_memory)}: {said}."

    @property
    def table(self) -> list[list[str]]:
        """What ranks need, under the names of what it is."""
        rows = [
            [one.label, str(one.memory.stage), *(readable(getattr(one.memory, kind)) for kind in (*KINDS, "total"))]
            for one in self.shown
        ]
        return [["ranks", "stage", *KINDS, "total"], *rows]

    @property
    def left_out(self) -> str:
        """What is said of ranks that are not shown."""
        missing = sum(len(one.ranks) for one in self.alike) - sum(len(one.ranks) for one in self.shown)
        return f"{missing:,} ranks that need less are not shown." if missing else ""

    @property
    def fitting(self) -> list[list[str]]:
        """The best layouts that fit, under the names of their sizes; empty if none were looked for."""
        if self.search is None:
            return []
        rows = [
            [*(f"{n:,}" for n in (fit.layout.ranks, fit.layout.tp, fit.layout.dp, fit.layout.pp)),
             readable(fit.fullest.total)]
            for fit in self.search.fitting[:MOST_FITS]
        ]  # fmt: skip
        return [["ranks", "tp", "fsdp", "pp", "fullest rank"], *rows]

    @property
    def reasons(self) -> list[str]:
        """Why other layouts were ruled out, if any were looked for."""
        found = list(self.search.ruled_out) if self.search else []
        more = len(found) - MOST_REASONS
        return [*found[:MOST_REASONS], f"and {more} more, which --json lists"] if more > 1 else found

    def parts(self, memory: RankMemory, length: int) -> Iterator[tuple[str, int, int]]:
        """The kinds of a strip of that length, each with where it begins and where it ends."""
        done = 0
        for kind in KINDS:
            start, done = done, done + getattr(memory, kind)
            yield kind, round(start * length / self.scale), round(done * length / self.scale)

    def as_data(self) -> dict[str, Any]:
        """All there is, in bytes."""
        work = asdict(self.work) | {"dtype": str(self.work.dtype).removeprefix("torch.")}
        found = None
        if self.search is not None:
            fits = [{**_sizes(fit.layout), "total": fit.fullest.total} for fit in self.search.fitting]
            found = {"fitting": fits, "ruled_out": list(self.search.ruled_out)}
        return {
            "model": self.title,
            "parameters": self.num_parameters,
            "layout": _sizes(self.layout),
            "work": work,
            "device_memory": self.device_memory,
            "fits": None if self.device_memory is None else self.fits,
            "ranks": [asdict(memory) | {"total": memory.total} for memory in self.ranks],
            "search": found,
        }

    def __str__(self) -> str:
        blocks = [self.facts, [_right(self.table)], [*_strips(self)], [self.verdict]]
        if self.left_out:
            blocks[1].append(self.left_out)
        if self.search is not None:
            blocks.insert(0, ["The smallest layouts that fit:", _right(self.fitting)])
        if self.reasons:
            blocks.append(["Ruled out:", *(f"  - {reason}" for reason in self.reasons)])
        return "\n\n".join("\n".join(block) for block in blocks)


def _sizes(layout: Layout) -> dict[str, int]:
    return {"ranks": layout.ranks, "tp": layout.tp, "fsdp": layout.dp, "pp": layout.pp}


def _layout(layout: Layout) -> str:
    return f"tp={layout.tp} fsdp={layout.dp} pp={layout.pp}"


def _right(rows: Sequence[Sequence[str]]) -> str:
    """A table whose cells stand on the right of their columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return columns([[cell.rjust(width) for cell, width in zip(row, widths, strict=True)] for row in rows], indent="  ")


def _strips(plan: Plan) -> Iterator[str]:
    """A line for each of the ranks that are shown, and what its marks mean."""
    widest = max(len(one.label) for one in plan.shown)
    for one in plan.shown:
        strip = "".join(MARKS[kind] * (last - first) for kind, first, last in plan.parts(one.memory, WIDTH))
        if plan.device_memory is not None:
            end = round(plan.device_memory * WIDTH / plan.scale)
            strip = strip.ljust(end, FREE)
            strip = strip[:end] + END + strip[end:]
        yield f"  {one.label.rjust(widest)}  {strip}"
    marks = {**MARKS, **({"free": FREE} if plan.device_memory is not None else {})}
    yield f"  {' ' * widest}  {'  '.join(f'{mark} {kind}' for kind, mark in marks.items())}"


def show(plan: Plan) -> None:
    """Print it, in colours where somebody watches."""
    if not sys.stdout.isatty():
        click.echo(str(plan))
        return
    from rich.console import Console
    from rich.text import Text

    text = Text(str(plan))
    for kind, mark in MARKS.items():
        text.highlight_regex(f"{mark}+", COLOURS[kind])
    Console(highlight=False).print(text, soft_wrap=True)

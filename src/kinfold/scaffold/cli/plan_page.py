"""What `scaffold plan` shows, as a page: one file of HTML that refers to nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

from kinfold.parallel.estimate import readable
from kinfold.scaffold.cli.plan_report import COLOURS, Alike, Plan

LEFT, LENGTH, STEP, HEIGHT = 130, 760, 30, 22
"""Of the picture: where strips begin, how long they are, from one to the next, and how high they are."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One kind of memory in a strip."""

    kind: str
    x: int
    width: int
    size: str


@dataclass(frozen=True, slots=True)
class Strip:
    """Ranks that need the same."""

    label: str
    y: int
    total: str
    end: int
    pieces: tuple[Piece, ...]


def render_page(plan: Plan) -> str:
    """The page."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((files("kinfold.scaffold.cli") / "plan.html.jinja").read_text(encoding="utf-8"))
    strips = [_strip(plan, one, number) for number, one in enumerate(plan.shown)]
    return template.render(
        plan=plan,
        strips=strips,
        colours=COLOURS,
        left=LEFT,
        width=LEFT + LENGTH + 100,
        height=len(strips) * STEP + 24,
        bar=HEIGHT,
        device=_device(plan),
    )


def _strip(plan: Plan, one: Alike, number: int) -> Strip:
    pieces = tuple(
        Piece(kind, LEFT + first, last - first, readable(getattr(one.memory, kind)))
        for kind, first, last in plan.parts(one.memory, LENGTH)
        if last > first
    )
    end = max((piece.x + piece.width for piece in pieces), default=LEFT)
    return Strip(one.label, number * STEP, readable(one.memory.total), end, pieces)


def _device(plan: Plan) -> tuple[int, str] | None:
    """Where a device ends, and how much it has."""
    if plan.device_memory is None:
        return None
    return LEFT + round(plan.device_memory * LENGTH / plan.scale), readable(plan.device_memory)

"""How far a run is, in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from time import monotonic
from typing import TextIO

from kinfold.training.metrics import Kind, Recorder

_SHOWN: Mapping[str, Callable[[float], str]] = {
    "epoch": lambda value: f"epoch {value:.0f}",
    "loss": lambda value: f"loss {value:.4f}",
    "gradient_norm": lambda value: f"norm {value:.3g}",
    "lr": lambda value: f"lr {value:.3g}",
    "tokens": lambda value: f"{value:,.0f} tokens",
    "tokens_per_second": lambda value: f"{value:,.0f} tokens/s",
}
"""What is shown of the values, in this order."""


class ProgressLine(Recorder):
    """Shows the values of each step: rewritten on a terminal, and now and then on a line of its own elsewhere.

    Args:
        stream: Where to; None is the standard error.
        seconds: How long to wait between two lines where there is no terminal.
    """

    def __init__(self, stream: TextIO | None = None, *, seconds: float = 30.0) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._rewrites = self._stream.isatty()
        self._wait = 0.1 if self._rewrites else seconds
        self._next = 0.0
        self._of = ""
        self._pending = ""
        self._width = 0

    def start(self, step_nr: int, max_num_steps: int | None) -> None:
        """Remember how many steps there are."""
        self._of = "" if max_num_steps is None else f"/{max_num_steps}"

    def record(self, kind: Kind, step_nr: int, values: Mapping[str, float]) -> None:
        """Show values; those of a step only if it is time to."""
        parts = [show(values[name]) for name, show in _SHOWN.items() if name in values]
        label = "step" if kind == "train" else "validation after step"
        self._pending = " | ".join([f"{label} {step_nr}{self._of}", *parts])
        if kind == "valid":
            self._show(stays=True)
        elif monotonic() >= self._next:
            self._show(stays=not self._rewrites)

    def close(self) -> None:
        """Show the last step, and end the line."""
        if self._pending or self._width:
            self._show(stays=True)

    def _show(self, *, stays: bool) -> None:
        """Write the line over the one before, if that did not stay."""
        blank = " " * (self._width - len(self._pending))
        start = "\r" if self._width else ""
        self._stream.write(f"{start}{self._pending}{blank}" + ("\n" if stays else ""))
        self._stream.flush()
        self._width = 0 if stays else len(self._pending)
        self._pending = "" if stays else self._pending
        self._next = monotonic() + self._wait

"""A bar while bytes are loaded or written."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def loading_bar(name: str) -> Iterator[Callable[[int, int], None] | None]:
    """What `load_model` takes as its `progress`; None where nobody watches."""
    with bytes_bar(f"Loading {name}") as progress:
        yield progress


@contextmanager
def bytes_bar(description: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar with bytes, speed and time left, on stderr; called with the bytes done so far and all there are.

    None where nobody watches.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)

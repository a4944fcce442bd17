"""What Python's memory management is told where many objects come at once."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """No garbage collection within.

    For work that makes thousands of objects and lets go of none: a full collection in between, over everything that
    torch has, would take several times as long as the work itself.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()

"""Killing this process at any of its steps."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from typing import Any


class Steps:
    """Counts the steps of this process, and kills it at one of them.

    Args:
        stop_at: The number of that step; 0 for none.
        functions: Functions of `os` that are to have a step before and one after them from now on.
    """

    def __init__(self, stop_at: int, functions: Iterable[str]) -> None:
        self.count = 0
        self._stop_at = stop_at
        for name in functions:
            setattr(os, name, self.around(getattr(os, name)))

    def __call__(self) -> int:
        """Take a step; gives its number."""
        self.count += 1
        if self.count == self._stop_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.count

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function with a step before and one after it."""

        def stepped(*arguments: Any, **options: Any) -> Any:
            self()
            result = function(*arguments, **options)
            self()
            return result

        return stepped

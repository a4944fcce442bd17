"""Checking a config as a whole: every fault at once, each with its value."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kinfold.errors import ConfigError


class ConfigChecks:
    """The checks of one config; each collects its faults instead of raising."""

    def __init__(self, config: object) -> None:
        self._config = config
        self.faults: list[str] = []

    def positive(self, *names: str) -> None:
        """Each of these fields is a number above zero; an int where its default is one."""
        for name in names:
            value = self._value(name)
            integral = isinstance(getattr(type(self._config), name, value), int)
            if isinstance(value, bool) or not isinstance(value, int if integral else int | float) or not value > 0:
                self.faults.append(f"{name} = {value!r}: must be {'an int' if integral else 'a number'} above 0")

    def positive_or_none(self, *names: str) -> None:
        """Each of these fields is None, or an int above zero."""
        for name in names:
            value = self._value(name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value <= 0):
                self.faults.append(f"{name} = {value!r}: must be an int above 0, or None")

    def positive_number_or_none(self, *names: str) -> None:
        """Each of these fields is None, or a number above zero."""
        for name in names:
            value = self._value(name)
            if value is not None and not (_is_number(value) and value > 0):
                self.faults.append(f"{name} = {value!r}: must be a number above 0, or None")

    def numbers_in_turns(self, *names: str) -> None:
        """Each of these fields is a tuple of one number or more, none below zero."""
        for name in names:
            value = self._value(name)
            if not isinstance(value, tuple) or not value or not all(_is_number(v) and v >= 0 for v in value):
                self.faults.append(f"{name} = {value!r}: must be a tuple of at least one number, each 0 or more")

    def switches_in_turns(self, *names: str) -> None:
        """Each of these fields is a tuple of one bool or more."""
        for name in names:
            value = self._value(name)
            if not isinstance(value, tuple) or not value or not all(isinstance(v, bool) for v in value):
                self.faults.append(f"{name} = {value!r}: must be a tuple of at least one True or False")

    def at_most(self, name: str, limit: str) -> None:
        """One field is at most another; fields that are no numbers are left to `positive`."""
        value, most = self._value(name), self._value(limit)
        if _is_number(value) and _is_number(most) and value > most:
            self.faults.append(f"{name} = {value!r}: must be at most {limit} = {most!r}")

    def share(self, *names: str) -> None:
        """Each of these fields is a number from 0 to below 1."""
        for name in names:
            value = self._value(name)
            if not _is_number(value) or not 0 <= value < 1:
                self.faults.append(f"{name} = {value!r}: must be a number from 0 to below 1")

    def index(self, name: str, size: str) -> None:
        """A field is None, or an int from 0 to below another field, which is left to `positive`."""
        value, below = self._value(name), self._value(size)
        if value is None or not isinstance(below, int) or below <= 0:
            return
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < below:
            self.faults.append(f"{name} = {value!r}: must be an int from 0 to below {size} = {below!r}, or None")

    def divides(self, divisor: str, dividend: str) -> None:
        """One field divides another; fields that are no positive ints are left to `positive`."""
        d, n = self._value(divisor), self._value(dividend)
        if isinstance(d, int) and isinstance(n, int) and d > 0 and n > 0 and n % d:
            right = [k for k in range(1, n + 1) if n % k == 0]
            near = sorted(sorted(right, key=lambda k: abs(k - d))[:3])
            self.faults.append(
                f"{divisor} = {d} does not divide {dividend} = {n}: {', '.join(map(str, near))} would",
            )

    def even(self, *names: str) -> None:
        """Each of these fields is an even number."""
        for name in names:
            value = self._value(name)
            if isinstance(value, int) and value % 2:
                self.faults.append(f"{name} = {value} is odd: {value - 1} or {value + 1} would do")

    def _value(self, name: str) -> Any:
        return getattr(self._config, name)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@contextmanager
def checking(config: object) -> Iterator[ConfigChecks]:
    """Collect the faults of `config`, and raise one `ConfigError` that lists them all.

    Example:
        with checking(config) as check:
            check.positive("model_dim", "num_heads")
            check.divides("num_kv_heads", "num_heads")
    """
    checks = ConfigChecks(config)
    yield checks
    if checks.faults:
        raise ConfigError(f"This {type(config).__name__} does not fit together:", faults=checks.faults)

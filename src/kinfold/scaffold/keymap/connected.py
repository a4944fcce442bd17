"""The connected parts of what belongs together."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

T = TypeVar("T")


def connected(items: Iterable[T], keys_of: Callable[[T], Iterable[Hashable]]) -> list[list[T]]:
    """Items that are connected: by a key in common, or through others; parts and items in the order they come.

    Args:
        items: The items.
        keys_of: The keys of an item; at least one.
    """
    parent: dict[Hashable, Hashable] = {}

    def root(key: Hashable) -> Hashable:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    first: list[tuple[T, Hashable]] = []
    for item in items:
        key, *others = keys_of(item)
        first.append((item, key))
        root(key)
        for other in others:
            parent[root(other)] = root(key)
    parts: dict[Hashable, list[T]] = {}
    for item, key in first:
        parts.setdefault(root(key), []).append(item)
    return list(parts.values())

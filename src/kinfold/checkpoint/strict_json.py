"""JSON in which a key that stands twice is an error: readers differ in which of the two they take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kinfold.errors import CheckpointError


def parse_json(text: bytes, *, place: str) -> Any:
    """The value of a JSON text in UTF-8.

    Raises:
        CheckpointError: It is no JSON, or has keys that stand twice; `place` stands in the message.
    """
    twice: list[str] = []

    def strict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) != len(pairs):
            seen: set[str] = set()
            twice.extend(key for key, _ in pairs if key in seen or seen.add(key))
        return values

    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=strict)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{place} is no JSON: {error}") from error
    if twice:
        raise CheckpointError(f"{place} is damaged:", faults=[f"the key {key!r} stands twice" for key in twice])
    return value


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        CheckpointError: It cannot be read, is no JSON, or has keys that stand twice.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    return parse_json(text, place=str(path))

"""Which family of transformers belongs to which group, and which are known to pass: families.yaml."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

VARIED = "+"
"""Between a family and what is varied, in the name of a folder: `llama+tied`."""


@cache
def data() -> dict[str, Any]:
    """The file: `groups` with `reason` and `families` each, and `passing`."""
    return yaml.safe_load(Path(__file__).with_name("families.yaml").read_text())


def kind_of(checkpoint: str) -> str:
    """The family of a folder's name."""
    return checkpoint.split(VARIED)[0]


def passes(checkpoint: str) -> bool:
    """Whether the family of a folder's name is among those that pass."""
    return kind_of(checkpoint) in data()["passing"]


def group_of(checkpoint: str) -> str | None:
    """The group of the family that a folder holds; None if it is in none."""
    kind = kind_of(checkpoint)
    return next((name for name, group in data()["groups"].items() if kind in group["families"]), None)

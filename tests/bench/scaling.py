"""The rows about what more processes gain: conversion on disk."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fixtures import BENCH, checkpoint_1b, family
from measure import Command, Row


def over_processes(what: str, **options: Any) -> Row:
    """1.1 billion parameters in bfloat16, by one process with threads for all cores, and by several with one each.

    Starting Python and torch takes each of them seconds, whatever there is to convert; that is left out.
    """
    checkpoint, converted = checkpoint_1b(), BENCH / "converted"
    folder = family("llama_1b", checkpoint)

    def clean() -> None:
        shutil.rmtree(converted, ignore_errors=True)
        os.sync()  # nobody pays for what the one before has left to be written

    script = str(Path(__file__).with_name("converting.py"))
    arguments = [script, "llama_1b", str(checkpoint), str(converted), json.dumps(options)]
    torchrun = ["env", "-u", "OMP_NUM_THREADS", str(Path(sys.executable).with_name("torchrun")), "--nproc-per-node"]
    one = Command("1 process", [sys.executable, *arguments], folder, inner=True, before=clean)
    two, four = (
        replace(one, name=f"{count} processes", arguments=[*torchrun, str(count), *arguments]) for count in (2, 4)
    )
    return Row(what, two, [one, four], "faster than 1 process", private=True)


ROWS: dict[str, Callable[[], Row]] = {
    "convert-processes-cast": lambda: over_processes("2.2 GB bf16 checkpoint to float32 on disk", dtype="float32"),
    "convert-processes-one-file": lambda: over_processes(
        "the same, to a single file", dtype="float32", max_shard_size="10GB"
    ),
    "convert-processes-copy": lambda: over_processes("2.2 GB bf16 checkpoint to another layout, copied by the kernel"),
}

"""Kills a conversion at every step that it asks of the operating system, and takes it up again.

python tests/killed_conversion.py SOURCE FOLDER FORMAT STRIDE prints, in JSON, at how many points it was killed and what
was wrong; with a STRIDE of 1 that is every one.

Each run is a fork of this process, killed by SIGKILL before or after its n-th step. Writes are cut in half.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from killing import Steps

from kinfold import convert_checkpoint
from kinfold.assets import AssetCard
from kinfold.checkpoint import dcp, write  # noqa: F401  (imported before there are forks)
from kinfold.conversion.unfinished import stage_of
from kinfold.loader import load_model

KILLED = -1
STEPS = ("copy_file_range", "fsync", "mkdir", "open", "rename", "replace", "rmdir", "unlink")
SIZES = {
    "model_dim": 64, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "ffn_inner_dim": 96,
    "ffn_inner_dim_to_multiple": 1,
    "vocab_size": 256, "max_seq_len": 128,
}  # fmt: skip


def convert(source: Path, destination: Path, format: Any) -> None:
    """A conversion in which some tensors are copied and none can be skipped."""
    card = AssetCard("tiny", "llama", source=Path("none"), model_config=SIZES, checkpoint=source)
    convert_checkpoint(card, destination, to="native", max_shard_size="150KB", format=format)


def count_steps(stop_at: int) -> Callable[[], int]:
    """Kill this process at a step; gives the number of steps so far."""
    step = Steps(stop_at, STEPS)

    def write_all(file: Any, data: memoryview) -> None:
        step()
        file.write(data[: len(data) // 2])
        step()
        file.write(data[len(data) // 2 :])
        step()

    write._write_all = write_all
    return lambda: step.count


def in_a_fork(work: Callable[[], int]) -> int:
    """What `work` gives (at most 65535), done in a process of its own; KILLED if it was, or failed."""
    read, written = os.pipe()
    if not (child := os.fork()):
        try:
            os.write(written, work().to_bytes(2, "little"))
        finally:
            os._exit(0)
    os.close(written)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    return KILLED if os.WIFSIGNALED(status) or not answer else int.from_bytes(answer, "little")


def content(folder: Path) -> dict[str, bytes] | None:
    """The files of a folder; None if there is none. DCP's metadata hold a random id."""
    if not folder.exists():
        return None
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".metadata"}


def main(source: Path, folder: Path, format: str, stride: int) -> None:
    load_model.get("llama")
    destination = folder / "made"

    def run(stop_at: int) -> int:
        steps = count_steps(stop_at)
        convert(source, destination, format)
        return steps()

    points = in_a_fork(lambda: run(0))
    expected = content(destination)
    shutil.rmtree(destination)
    wrong: list[str] = []
    stops = range(1, points + 1, stride)
    for stop_at in stops:
        if in_a_fork(lambda stop_at=stop_at: run(stop_at)) != KILLED:
            wrong.append(f"{stop_at}: it was not killed")
        if content(destination) not in (None, expected):
            wrong.append(f"{stop_at}: the destination is neither absent nor complete")
        tidy = destination.exists() and not any(stage_of(destination).glob("*"))
        if not tidy and in_a_fork(lambda: run(0)) == KILLED:
            wrong.append(f"{stop_at}: the second run failed")
        if content(destination) != expected:
            wrong.append(f"{stop_at}: the second run made something else")
        if any(stage_of(destination).glob("*")):
            wrong.append(f"{stop_at}: the second run left something behind")
        shutil.rmtree(destination, ignore_errors=True)
        shutil.rmtree(stage_of(destination), ignore_errors=True)
    print(json.dumps({"points": len(stops), "files": sorted(expected or {}), "wrong": wrong}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))

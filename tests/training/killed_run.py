"""Kills a run at every step that it asks of the operating system, and resumes it.

PYTHONPATH=tests python tests/training/killed_run.py FOLDER STRIDE prints, in JSON, at how many points it was killed,
from which steps it was resumed, and what was wrong; with a STRIDE of 1 that is every point.

Each run is a fork of this process, killed by SIGKILL before or after its n-th step. What a checkpoint holds, and what
is told, is cut in half.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch._dynamo  # noqa: F401  (imported before there are forks)
from killing import Steps
from torch.distributed.checkpoint import filesystem
from toy import ToyUnit, metrics, toy_model, toy_reader, toy_trainer

from kinfold.training import JsonLinesRecorder
from kinfold.training.checkpoints import complete_steps

STEPS = ("fsync", "mkdir", "rename", "rmdir", "unlink")
NUM_STEPS = 9


class TornRecorder(JsonLinesRecorder):
    """Writes a line in two halves."""

    step: Callable[[], object]

    def record(self, kind: Any, step_nr: int, values: Mapping[str, float]) -> None:
        super().record(kind, step_nr, values)
        whole = self._path.stat().st_size
        line = self._path.read_bytes().splitlines(keepends=True)[-1]
        os.truncate(self._path, whole - len(line) // 2)
        self.step()
        os.truncate(self._path, whole - len(line))
        self._file.seek(0, 2)
        self._file.write(line.decode())
        self._file.flush()
        self.step()


def train(folder: Path, step: Callable[[], object]) -> None:
    """Nine steps with a checkpoint after every other, of which two are kept, and a validation."""
    recorder = TornRecorder(folder / "metrics.jsonl")
    recorder.step = step
    unit = ToyUnit(toy_model(), on_step=lambda _step_nr: step())
    toy_trainer(
        folder, unit=unit, recorders=[recorder], max_num_steps=NUM_STEPS, gradient_accumulation=2,
        valid_unit=unit, valid_data_reader=toy_reader(9), validate_every_n_steps=3,
        checkpoint_every_n_steps=2, keep_last_n_checkpoints=2, publish_metrics_every_n_steps=3,
    )()  # fmt: skip


def count_steps(stop_at: int) -> Steps:
    """Kill this process at a step; gives what takes one more, and gives its number."""
    steps = Steps(stop_at, STEPS)
    filesystem._write_item = steps.around(filesystem._write_item)
    return steps


def in_a_fork(work: Callable[[], None]) -> bool:
    """Do something in a process of its own; gives whether it came to its end."""
    if not (child := os.fork()):
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def outcome(folder: Path) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """What was told, and the last checkpoint. DCP's metadata hold a random id."""
    files = (folder / f"step_{NUM_STEPS}").iterdir()
    return metrics(folder), {path.name: path.read_bytes() for path in files if path.name != ".metadata"}


def main(folder: Path, stride: int) -> None:
    undisturbed, killed, counted = folder / "undisturbed", folder / "killed", folder / "steps"

    def counting() -> None:
        step = count_steps(0)
        train(undisturbed, step)
        counted.write_text(str(step()))

    if not in_a_fork(counting):
        sys.exit("The undisturbed run failed.")
    expected = outcome(undisturbed)
    stops = range(1, int(counted.read_text()), stride)
    wrong: list[str] = []
    resumed_from: set[int] = set()
    half_saved = 0

    for stop_at in stops:
        if in_a_fork(lambda stop_at=stop_at: train(killed, count_steps(stop_at))):
            wrong.append(f"{stop_at}: it was not killed")
        resumed_from.add(max(complete_steps(killed), default=0))
        half_saved += any(killed.glob(".step_*.saving"))
        if not in_a_fork(lambda: train(killed, lambda: None)):
            wrong.append(f"{stop_at}: the second run failed")
        elif outcome(killed)[0] != expected[0]:
            wrong.append(f"{stop_at}: the second run told something else")
        elif outcome(killed)[1] != expected[1]:
            wrong.append(f"{stop_at}: the second run came to something else")
        if {path.name for path in killed.iterdir()} != {path.name for path in undisturbed.iterdir()}:
            wrong.append(f"{stop_at}: the second run left something behind")
        shutil.rmtree(killed)
    report = {"points": len(stops), "resumed_from": sorted(resumed_from), "half_saved": half_saved, "wrong": wrong}
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

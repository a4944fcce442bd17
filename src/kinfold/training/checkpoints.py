"""The checkpoints of a run: one folder a step, each there complete or not at all.

One is made in `.step_N.saving`, synced, and renamed to `step_N`; of several ranks all write into it, and the first does
the rest. Older ones are renamed to `.step_N.removing` before they are removed, so that half of one is never taken for a
whole. What a killed run has left of either the next removes.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kinfold.checkpoint.names import DCP_METADATA
from kinfold.durable import put_in_place
from kinfold.errors import TrainingError
from kinfold.training.ranks import Ranks

_LOCK = ".lock"
_LEFTOVERS = (".step_*.saving", ".step_*.removing")


def newest_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint of the latest step; None if there is none."""
    steps = complete_steps(folder)
    return folder / f"step_{steps[-1]}" if steps else None


def complete_steps(folder: Path) -> list[int]:
    """The steps that have a complete checkpoint, in order."""
    if not folder.is_dir():
        return []
    names = (re.fullmatch(r"step_(0|[1-9][0-9]*)", path.parent.name) for path in folder.glob(f"step_*/{DCP_METADATA}"))
    return sorted(int(name[1]) for name in names if name)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Make a folder of checkpoints this run's own, and remove what killed runs have left in it.

    Raises:
        TrainingError: Another run is at work in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise TrainingError(f"Another run is at work in {folder}.") from error
        for path in (path for pattern in _LEFTOVERS for path in folder.glob(pattern)):
            shutil.rmtree(path)
        yield


def save_checkpoint(folder: Path, step_nr: int, write: Callable[[Path], None], ranks: Ranks) -> None:
    """Make a checkpoint; called on every rank. Nothing is left of one that comes to no end.

    Args:
        folder: Where checkpoints lie.
        step_nr: Its step.
        write: Writes it into a folder that is given, this rank's part; what it raises it raises on all.
        ranks: Those that have a part.
    """
    stage, destination = folder / f".step_{step_nr}.saving", folder / f"step_{step_nr}"

    def put() -> None:
        if destination.exists():  # incomplete, or there would be nothing to save
            _remove(destination)
        put_in_place(stage, destination)

    ranks.first(stage.mkdir)
    try:
        write(stage)
    except BaseException:
        if ranks.is_first:
            shutil.rmtree(stage, ignore_errors=True)
        raise
    ranks.first(put)


def remove_oldest(folder: Path, keep_last_n: int | None) -> None:
    """Remove all checkpoints but the last; None keeps all."""
    if keep_last_n is not None:
        for step in complete_steps(folder)[:-keep_last_n]:
            _remove(folder / f"step_{step}")


def _remove(checkpoint: Path) -> None:
    doomed = checkpoint.with_name(f".{checkpoint.name}.removing")
    os.rename(checkpoint, doomed)
    shutil.rmtree(doomed)

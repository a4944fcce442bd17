"""Which rank it was: ranks tell one another that they live, so that an error can name the one that does not.

What fails first when a rank dies or hangs is an operation of the others, with a message that names an address at best.
Each rank therefore has a thread that counts in the store of torchrun, which outlives ranks. Where an operation fails,
ranks look whose count has stopped, and who of the others did not meet the failure: that one hangs elsewhere.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING

from kinfold.errors import KinfoldError, RankError

if TYPE_CHECKING:
    from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]

BEAT = 0.5
"""Seconds from one count to the next."""

PATIENCE = 3.0
"""Seconds without a count after which a rank is taken for dead."""

_SIGNS = (
    "gloo", "nccl", "connection closed", "connection reset", "broken pipe", "timed out", "timeout", "process group",
    "socket", "store",
)  # fmt: skip
"""What messages of failed operations between ranks have in them; torch has no class for all of them."""


class Watch:
    """Counts for this rank, and looks after the others.

    Args:
        rank: Of this process.
        size: How many ranks there are.
    """

    def __init__(self, rank: int, size: int) -> None:
        self._rank = rank
        self._size = size
        self._place = "the start"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._count, name="kinfold-watch", daemon=True)
        self._thread.start()

    def at(self, place: str) -> None:
        """Say what this rank does now: "step 12"."""
        self._place = place

    def close(self) -> None:
        """Count no more; the others know that it was on purpose."""
        if not self._ended.is_set():
            self._ended.set()
            self._thread.join(timeout=2 * BEAT)

    @contextmanager
    def guarding(self) -> Iterator[None]:
        """Have errors in this block name the rank that they come from.

        Raises:
            RankError: Another rank has died, hangs or has failed.
        """
        try:
            yield
        except KinfoldError as error:
            self._tell(str(error))
            raise
        except Exception as error:
            if not _is_between_ranks(error):
                self._tell(f"{type(error).__name__}: {error}")
                raise
            raise self._diagnosis(error) from error

    def _count(self) -> None:
        store, number = _store(), 0
        while not self._ended.wait(BEAT):
            number += 1
            try:
                store.set(f"beat/{self._rank}", json.dumps([number, self._place, _where()]))
            except Exception:  # whoever kept the store has ended, and nobody is left to be told
                return
        with suppress(Exception):
            store.set(f"beat/{self._rank}", json.dumps([-1, "the end", ""]))

    def _tell(self, what: str) -> None:
        with suppress(Exception):  # the error itself is what matters
            _store().set(f"failed/{self._rank}", what)

    def _diagnosis(self, error: Exception) -> RankError:
        summary = f"Rank {self._rank} cannot go on at {self._place}: another rank of {self._size} does not answer."
        try:
            store = _store()
            store.set(f"waits/{self._rank}", "")
            faults = list(self._faults(store))
            self._leave(store)
        except Exception:
            return RankError(summary, faults=["rank 0, or what started it, has ended: it kept the store of all ranks"])
        if not faults:
            faults = [f"it is not known which: {str(error).splitlines()[0]}"]
        return RankError(summary, faults=faults)

    def _faults(self, store: Store) -> Iterator[str]:
        """What is known of each rank that is not well."""
        others = [rank for rank in range(self._size) if rank != self._rank]
        before = {rank: _read(store, f"beat/{rank}") for rank in others}
        sleep(PATIENCE)
        for rank in others:
            if store.check([f"waits/{rank}"]):  # it met the same failure, and may have ended of it
                continue
            beat, failed = _read(store, f"beat/{rank}"), _read(store, f"failed/{rank}")
            number, place, where = json.loads(beat) if beat else (0, "the start", "")
            if failed:
                yield f"rank {rank} has failed: {failed.splitlines()[0]}"
            elif number == -1:
                yield f"rank {rank} has ended before the others"
            elif beat == before[rank]:
                yield f"rank {rank} has died or is stopped; the last that was heard of it was at {place}"
            elif where:
                yield f"rank {rank} hangs at {place}, in {where}"

    def _leave(self, store: Store) -> None:
        """Keep the store until the others have read it, if it is in this process."""
        store.set(f"left/{self._rank}", "")
        if self._rank or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            return
        waiting = [rank for rank in range(1, self._size) if store.check([f"waits/{rank}"])]
        end = monotonic() + PATIENCE
        while monotonic() < end and not all(store.check([f"left/{rank}"]) for rank in waiting):
            sleep(BEAT / 5)


def _where() -> str:
    """The line that the main thread is at; nothing while it waits for other ranks."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    innermost = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}" if frame else ""
    while frame is not None:
        parts = Path(frame.f_code.co_filename).parts
        if {"distributed", "autograd"} & set(parts) and "checkpoint" not in parts:  # DCP is at work on files
            return ""
        frame = frame.f_back
    return innermost


def _is_between_ranks(error: Exception) -> bool:
    """Whether an error is of an operation that ranks do together."""
    import torch.distributed as dist
    from torch.distributed.checkpoint.api import CheckpointException

    if isinstance(error, dist.DistError | CheckpointException):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in _SIGNS)


def _store() -> Store:
    """A connection of its own to the store that all ranks share."""
    from torch.distributed import PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]

    client = TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        wait_for_workers=False,
        timeout=timedelta(seconds=10),
    )
    return PrefixStore("kinfold", client)


def _read(store: Store, key: str) -> str | None:
    return store.get(key).decode() if store.check([key]) else None

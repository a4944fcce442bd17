"""The ranks that write one checkpoint together, and what they tell one another meanwhile.

Work is dealt out as it goes on: whoever is done takes the next part of a file, by counting in torch's store. Ranks that
are slow, and parts that take long, then need no thought, and no tensor travels between ranks. A process by itself is a
crew of one, with a store in its own memory.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from kinfold.errors import KinfoldError, RankError

if TYPE_CHECKING:
    from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]

    from kinfold.parallel import Gangs

T = TypeVar("T")

_EVERY = 16 * 2**20
"""How many bytes a rank writes until it tells the others."""

_POLL = 0.02
"""Seconds between two looks at what the others have said."""

_PATIENCE = 600.0
"""Seconds in which no rank writes anything until it is an error: a disk may be far behind with what it has to write."""

_numbers = itertools.count()


@contextmanager
def crew_of(gangs: Gangs | None) -> Iterator[Crew]:
    """The crew of all ranks, for the length of a block; of this process alone where there are no others.

    All ranks come to it, and to everything that is said within, in the same order.

    Args:
        gangs: The gangs of the ranks.

    Raises:
        RankError: The block has failed, here or on another rank; names the rank.
    """
    if gangs is None or gangs["world"].size == 1:
        yield Crew()
        return
    from torch.distributed import PrefixStore  # pyright: ignore[reportPrivateImportUsage]
    from torch.distributed.distributed_c10d import _get_default_store

    store = PrefixStore(f"kinfold.crew.{next(_numbers)}", _get_default_store())
    crew = Crew(store, gangs["world"].rank, gangs["world"].size)
    with gangs.guarding():
        try:
            yield crew
        except RankError:  # which the others know of
            raise
        except KinfoldError as error:
            crew.fail(error.summary, error.faults, error.hint, cause=error)
        except Exception as error:
            crew.fail(f"{type(error).__name__}: {error}", cause=error)


class Crew:
    """What one rank says to the others, and hears of them.

    Args:
        store: What they share; None for one of its own.
        rank: Which of them this process is.
        size: How many there are.
    """

    def __init__(self, store: Store | None = None, rank: int = 0, size: int = 1) -> None:
        from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]

        self.rank = rank
        self.size = size
        self._store = store or HashStore()
        self._unsaid = 0
        self._shown = 0
        self._total = 0
        self._progress: Callable[[int, int], None] | None = None

    def expect(self, total: int, progress: Callable[[int, int], None] | None) -> None:
        """Say how many bytes are to be written, and what to call on rank 0 with those that are, and with all."""
        self._total, self._progress = total, progress

    def add(self, topic: str, count: int) -> int:
        """Add to a count that all ranks share; gives what it is now.

        Raises:
            RankError: Another rank has failed, and there is nothing more to do.
        """
        self._check()
        return self._store.add(topic, count)

    def wrote(self, nbytes: int) -> None:
        """Note that so many bytes more are written."""
        self._unsaid += nbytes
        if self.size == 1 or self._unsaid >= _EVERY:
            self._say_written()

    def told(self, topic: str, make: Callable[[], T]) -> T:
        """What `make` gives on rank 0, which alone calls it: plain data, the same on every rank.

        Raises:
            RankError: Another rank has failed meanwhile.
        """
        if self.rank == 0:
            self._store.set(f"told {topic}", json.dumps(make()))
        self._wait(lambda: self._store.check([f"told {topic}"]), topic)
        return json.loads(self._store.get(f"told {topic}"))

    def meet(self, place: str) -> None:
        """Wait until every rank has come here.

        Raises:
            RankError: Another rank has failed meanwhile.
        """
        self._say_written()
        self.add(f"met {place}", 1)
        self._wait(lambda: self._store.add(f"met {place}", 0) == self.size, place)

    def fail(
        self, summary: str, faults: tuple[str, ...] = (), hint: str | None = None, *, cause: BaseException
    ) -> NoReturn:
        """Have every rank fail by what has gone wrong on this one.

        Raises:
            RankError: Always.
        """
        from torch.distributed import DistError

        failure = {"summary": f"Rank {self.rank} has failed: {summary}", "faults": faults, "hint": hint}
        with suppress(DistError):  # the others have ended, or will see that this rank has
            self._store.compare_set("failure", "", json.dumps(failure))
        raise RankError(**failure) from cause

    def _check(self) -> None:
        if self.size > 1 and self._store.check(["failure"]):
            failure: dict[str, Any] = json.loads(self._store.get("failure"))
            raise RankError(**failure)

    def _say_written(self) -> int:
        nbytes, self._unsaid = self._unsaid, 0
        written = self._store.add("bytes", nbytes)
        if self.rank == 0 and self._progress is not None and written != self._shown:
            self._shown = written
            self._progress(written, self._total)
        return written

    def _wait(self, ready: Callable[[], bool], topic: str) -> None:
        """Wait for the others as long as anything is written by any of them."""
        from torch.distributed import DistError

        since, before = monotonic(), self._say_written()
        while not ready():
            self._check()
            if (written := self._say_written()) != before:
                since, before = monotonic(), written
            if monotonic() - since > _PATIENCE:
                raise DistError(f"timed out: nothing is heard of other ranks, which have not come to {topic!r}")
            sleep(_POLL)
        self._say_written()

"""Timing commands side by side: ours and the peer's in turn, each a process of its own."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent, indent
from threading import Event, Thread

MARK = "SECONDS"

_ANONYMOUS = re.compile(r"^RssAnon:\s*(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True)
class Command:
    """A command to time.

    Attributes:
        name: What the table calls it.
        arguments: The command itself.
        folder: Where it runs.
        inner: It prints `SECONDS x` itself, for instance to leave out imports; otherwise the whole process counts.
        before: Called before each run, for instance to clean up.
    """

    name: str
    arguments: Sequence[str]
    folder: Path
    inner: bool = False
    before: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Row:
    """What is measured, with whom it is compared, and what we aim for.

    Attributes:
        private: Whether the table shows private memory as well, in which pages mapped from files do not count.
    """

    what: str
    ours: Command
    peers: Sequence[Command]
    goal: str
    runs: int = 5
    private: bool = False


@dataclass
class Figures:
    """Seconds, peak resident memory and, where it was watched, peak private memory (MB) of several runs."""

    seconds: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)
    private: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        spread = f"{min(self.seconds):.2f}-{max(self.seconds):.2f}"
        private = f" ({statistics.median(self.private):.0f} MB private)" if self.private else ""
        return f"{self.median:.3f} s ({spread}), {statistics.median(self.megabytes):.0f} MB{private}"

    @property
    def median(self) -> float:
        """The median of the seconds."""
        return statistics.median(self.seconds)


def timed(name: str, folder: Path, setup: str, work: str, *, python: str = sys.executable, repeat: int = 1) -> Command:
    """A command that times Python code alone, after other code, in one process.

    Args:
        name: What the table calls it.
        folder: Where it runs.
        setup: What goes before; not timed.
        work: What is timed.
        python: Whose Python runs it.
        repeat: How often `work` is done; the median of its times counts.
    """
    code = (
        f"{dedent(setup)}\nimport statistics, time\nseconds = []\nfor _ in range({repeat}):\n"
        f"    start = time.perf_counter()\n{indent(dedent(work), '    ')}\n"
        f"    seconds.append(time.perf_counter() - start)\nprint('{MARK}', statistics.median(seconds))"
    )
    return Command(name, [python, "-c", code], folder, inner=True)


def measure(row: Row) -> dict[str, Figures]:
    """Run ours and the peers in turn, so that all see the same machine; one run each is not counted."""
    commands = [row.ours, *row.peers]
    figures = {command.name: Figures() for command in commands}
    for turn in range(row.runs + 1):
        for command in commands:
            run(command, figures[command.name] if turn else Figures(), private=row.private)
    return figures


def run(command: Command, figures: Figures, *, private: bool = False) -> None:
    """Run a command once and add what is measured to its figures."""
    command.before()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(os.cpu_count())}
    start = time.perf_counter()
    with (
        subprocess.Popen(
            command.arguments, cwd=command.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process,
        _watched(process.pid, figures.private) if private else nullcontext(),
    ):
        output = process.stdout.read().decode() if process.stdout else ""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
    if process.returncode:
        raise RuntimeError(f"{command.name} failed:\n{output}")
    if command.inner:
        seconds = float(next(line for line in output.splitlines() if line.startswith(MARK)).split()[1])
    figures.seconds.append(seconds)
    figures.megabytes.append(usage.ru_maxrss / 1024)


@contextmanager
def _watched(pid: int, peaks: list[float], *, every: float = 0.005) -> Iterator[None]:
    """Add the most private memory (MB) that a process has had to a list, looked at every few milliseconds.

    Of one that has started others, it is that of whichever had the most.
    """
    done, found = Event(), [0.0]

    def watch() -> None:
        while not done.wait(every):
            for each in _with_descendants(pid):
                with suppress(OSError):  # it has ended
                    status = Path(f"/proc/{each}/status").read_text()
                    found.extend(int(size) / 1024 for size in _ANONYMOUS.findall(status))

    thread = Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        peaks.append(max(found))


def _with_descendants(pid: int) -> Iterator[int]:
    yield pid
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            yield from _with_descendants(int(child))


def table(rows: Sequence[tuple[Row, dict[str, Figures]]]) -> str:
    """The rows as Markdown: every median, with the smallest and largest, and the ratio to each peer."""
    lines = ["| what | who | median (min-max), peak memory | ours is | goal |", "| --- | --- | --- | --- | --- |"]
    for row, figures in rows:
        ours = figures[row.ours.name]
        lines.append(f"| {row.what} | {row.ours.name} | {ours} | | {row.goal} |")
        for peer in row.peers:
            ratio = figures[peer.name].median / ours.median
            lines.append(f"| | {peer.name} | {figures[peer.name]} | {ratio:.1f} x faster | |")
    return "\n".join(lines)

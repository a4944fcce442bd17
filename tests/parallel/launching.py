"""Calling a function in several processes at once, which are the ranks of one process group.

    results = launch(function, 4, "an argument")

The function is called without a process group; `setup_gangs(...)` makes it, as under torchrun. It stands at the top of
a module, so that every process can import it: one of its own (`ranks_*.py`), which needs no pytest.
"""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

TIMEOUT = 240.0
"""Seconds that all ranks may take together."""

GRACE = 15.0
"""Seconds that the others have to end once a rank has failed."""


class LaunchError(Exception):
    """A rank failed, died, or did not end in time."""


def launch(
    function: Callable[..., Any],
    nproc: int,
    *arguments: Any,
    timeout: float = TIMEOUT,
    fails: bool = False,
    lost: Collection[int] = (),
) -> list[Any]:
    """What a function gives on every rank, in their order.

    Args:
        function: Called with the arguments, in every process; what it takes and gives can be pickled.
        nproc: How many ranks there are.
        timeout: Seconds until all processes are ended.
        fails: Give what a rank raises in place of what it would have given, and None of one that has died, instead of
            failing.
        lost: Ranks that will not end, so that nobody waits for them.

    Raises:
        LaunchError: A rank raised something (unless it `fails`), died or did not end; shows what all have printed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "call").write_bytes(pickle.dumps((sys.path, pickle.dumps((function, arguments)))))
        processes = [_start(rank, nproc, port, folder) for port in [_free_port()] for rank in range(nproc)]
        try:
            awaited = {rank: process for rank, process in enumerate(processes) if rank not in lost}
            _wait(awaited, folder, time.monotonic() + timeout)
        finally:
            for process in processes:
                process.kill()
                process.wait()
        results = [_result(folder, rank) for rank in range(nproc)]
        failed = [rank for rank, (kind, _) in enumerate(results) if kind != "gave"]
        if failed and not fails:
            printed = [f"--- rank {r}\n{(folder / f'output{r}').read_text(errors='replace')}" for r in range(nproc)]
            raise LaunchError("\n".join([f"Ranks that failed: {failed}", *printed]))
        return [value for _, value in results]


def _start(rank: int, nproc: int, port: int, folder: Path) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(nproc),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    with (folder / f"output{rank}").open("wb") as output:
        command = [sys.executable, __file__, str(folder)]
        return subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _wait(processes: Mapping[int, subprocess.Popen[bytes]], folder: Path, end: float) -> None:
    """Until all have ended, or one has failed and the others had time to notice, or it takes too long."""
    has_failed = False
    while time.monotonic() < end and any(process.poll() is None for process in processes.values()):
        ended = [rank for rank, process in processes.items() if process.poll() is not None]
        if not has_failed and any(_result(folder, rank)[0] != "gave" for rank in ended):
            has_failed, end = True, min(end, time.monotonic() + GRACE)
        time.sleep(0.02)


def _result(folder: Path, rank: int) -> tuple[str, Any]:
    """How a rank came to its end ("gave", "raised" or "died"), and what came out."""
    try:
        return pickle.loads((folder / f"result{rank}").read_bytes())
    except FileNotFoundError:
        return "died", None


def _be_a_rank(folder: Path) -> None:
    sys.path[:], call = pickle.loads((folder / "call").read_bytes())
    function, arguments = pickle.loads(call)
    try:
        result = "gave", function(*arguments)
    except Exception as error:
        traceback.print_exc()
        result = "raised", error
    partial = folder / f"partial{os.environ['RANK']}"
    partial.write_bytes(pickle.dumps(result))
    partial.rename(folder / f"result{os.environ['RANK']}")


if __name__ == "__main__":
    _be_a_rank(Path(sys.argv[1]))

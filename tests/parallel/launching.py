"""Calling a function in several processes at once, which are the ranks of one process group.

    results = launch(function, 4, "an argument")

The function is called without a process group; `setup_gangs(...)` makes it, as under torchrun. It stands at the top of
a module, so that every process can import it: one of its own (`ranks_*.py`), which needs no pytest.

Processes are forked from one that has imported torch, and done nothing else: importing takes seconds for each.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

TIMEOUT = 240.0
"""Seconds that all ranks may take together."""

GRACE = 15.0
"""Seconds that the others have to end once a rank has failed."""


_IMPORTED = [
    "torch._dynamo",
    "torch.distributed.checkpoint",
    "torch.distributed.fsdp",
    "torch.distributed.pipelining",
    "torch.distributed.tensor.parallel",
    "kinfold.conversion",
    "kinfold.parallel.tensor",
    "kinfold.training",
]
"""What is imported before processes are forked."""


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
        processes = [
            _start(rank, nproc, port, folder, function, arguments) for port in [_free_port()] for rank in range(nproc)
        ]
        try:
            awaited = {rank: process for rank, process in enumerate(processes) if rank not in lost}
            _wait(awaited, folder, time.monotonic() + timeout)
        finally:
            for process in processes:
                process.kill()
                process.join()
        results = [_result(folder, rank) for rank in range(nproc)]
        failed = [rank for rank, (kind, _) in enumerate(results) if kind != "gave"]
        if failed and not fails:
            printed = [f"--- rank {r}\n{(folder / f'output{r}').read_text(errors='replace')}" for r in range(nproc)]
            raise LaunchError("\n".join([f"Ranks that failed: {failed}", *printed]))
        return [value for _, value in results]


def _start(
    rank: int, nproc: int, port: int, folder: Path, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> ForkServerProcess:
    environment = {
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(nproc),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    process = context.Process(target=_be_a_rank, args=(folder, environment, function, arguments), daemon=True)
    process.start()
    return process


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _wait(processes: Mapping[int, ForkServerProcess], folder: Path, end: float) -> None:
    """Until all have ended, or one has failed and the others had time to notice, or it takes too long."""
    has_failed = False
    while time.monotonic() < end and any(process.is_alive() for process in processes.values()):
        ended = [rank for rank, process in processes.items() if not process.is_alive()]
        if not has_failed and any(_result(folder, rank)[0] != "gave" for rank in ended):
            has_failed, end = True, min(end, time.monotonic() + GRACE)
        time.sleep(0.02)


def _result(folder: Path, rank: int) -> tuple[str, Any]:
    """How a rank came to its end ("gave", "raised" or "died"), and what came out."""
    try:
        return pickle.loads((folder / f"result{rank}").read_bytes())
    except FileNotFoundError:
        return "died", None


def _be_a_rank(
    folder: Path, environment: Mapping[str, str], function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    rank = environment["RANK"]
    with (folder / f"output{rank}").open("wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    try:
        result = "gave", function(*arguments)
    except Exception as error:
        traceback.print_exc()
        result = "raised", error
    partial = folder / f"partial{rank}"
    partial.write_bytes(pickle.dumps(result))
    partial.rename(folder / f"result{rank}")

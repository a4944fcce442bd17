"""A folder that is there complete or not at all, and whose making can be taken up again.

It is made in `.NAME.converting` beside it, which holds `request.json` (what is being made, and of what), `lock`, and
`checkpoint/`, which is renamed to the destination in one step. All who fill it share the lock, so that nobody else
begins before the last of them has ended.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from kinfold.checkpoint.crew import Crew
from kinfold.checkpoint.write import write_synced
from kinfold.durable import put_in_place, sync
from kinfold.errors import CheckpointError

_REQUEST, _LOCK, _CONTENT = "request.json", "lock", "checkpoint"

Request = Mapping[str, Any]
"""All that decides what comes out, as plain data."""


def stage_of(destination: Path) -> Path:
    """The folder in which `destination` is made."""
    return destination.with_name(f".{destination.name}.converting")


@contextmanager
def made_together(destination: Path, request: Request, crew: Crew, *, restart: bool = False) -> Iterator[Path]:
    """A folder that all ranks fill, and rank 0 makes (`made_whole`); the block ends when the destination is there.

    Raises:
        CheckpointError: As `made_whole` says, or the system refuses something.
        RankError: Another rank has failed.
    """
    try:
        if crew.rank == 0:
            with made_whole(destination, request, restart=restart) as folder:
                crew.meet("begun")
                yield folder
                crew.meet("filled")
        else:
            crew.meet("begun")
            with _locked(stage_of(destination), fcntl.LOCK_SH):
                yield stage_of(destination) / _CONTENT
            crew.meet("filled")
        crew.meet("made")
    except OSError as error:
        raise CheckpointError(
            f"{destination} could not be written: {error}",
            hint="What is complete is kept, and the same call goes on with it.",
        ) from error


@contextmanager
def made_whole(destination: Path, request: Request, *, restart: bool = False) -> Iterator[Path]:
    """A folder to fill, which becomes `destination` when the block ends; after an error it is kept.

    What an interrupted run of the same request has left in it is still there.

    Args:
        destination: The folder to make.
        request: What is being made.
        restart: Whether to throw away what an unfinished run of another request has left.

    Raises:
        CheckpointError: The destination exists, another process is making it, or another request is unfinished.
    """
    stage = stage_of(destination)
    if os.path.lexists(destination):
        raise _exists(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    stage.mkdir(exist_ok=True)
    with _locked(stage, fcntl.LOCK_EX) as lock:
        if os.path.lexists(destination):  # made by another process in the meantime
            raise _exists(destination)
        _take_up(stage, request, restart=restart)
        folder = stage / _CONTENT
        folder.mkdir(exist_ok=True)
        _lock(lock, fcntl.LOCK_SH)
        yield folder
        put_in_place(folder, destination)  # refused by the system if something with content is there by now
        _tidy_up(stage)


def differences(begun: Any, request: Request) -> list[str]:
    """What a request asks for otherwise than one that was begun, line by line."""

    def shown(value: Any) -> str:
        text = json.dumps(value)
        return text if len(text) <= 100 else f"{text[:97]}..."

    plain = _plain(request)
    before = begun if isinstance(begun, dict) else {}
    return [
        f"{key}: {shown(before.get(key))}, not {shown(plain.get(key))}"
        for key in {**before, **plain}
        if before.get(key) != plain.get(key)
    ]


def was_made(destination: Path, request: Request) -> bool:
    """Whether an earlier run of the same request has made the destination, and was interrupted just after it."""
    stage = stage_of(destination)
    if not destination.is_dir() or (stage / _CONTENT).exists() or _read(stage) != _plain(request):
        return False
    _tidy_up(stage)
    return True


def _tidy_up(stage: Path) -> None:
    """Remove an empty stage; the request last, by which an interrupted run is known to have come to its end."""
    for name in (_LOCK, f"{_REQUEST}.partial", _REQUEST):
        (stage / name).unlink(missing_ok=True)
    stage.rmdir()


def _exists(destination: Path) -> CheckpointError:
    return CheckpointError(f"{destination} exists.", hint="Name a destination that does not, or move it away.")


@contextmanager
def _locked(stage: Path, kind: int) -> Iterator[BinaryIO]:
    with (stage / _LOCK).open("w+b") as lock:
        _lock(lock, kind)
        yield lock


def _lock(lock: BinaryIO, kind: int) -> None:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except OSError as error:
        raise CheckpointError(f"Another process is at work in {Path(lock.name).parent}.") from error


def _take_up(stage: Path, request: Request, *, restart: bool) -> None:
    """Make sure that the stage is of this request."""
    begun = _read(stage)
    if begun == _plain(request):
        return
    if begun is not None and not restart:
        raise CheckpointError(
            f"{stage} has an unfinished conversion that is not the same:",
            faults=differences(begun, request),
            hint="Ask for the same to go on with it, or for a restart (`restart=True`, `--restart`) to throw it away.",
        )
    strange = {path.name for path in stage.iterdir()} - {_REQUEST, f"{_REQUEST}.partial", _LOCK}
    if begun is None and strange:
        raise CheckpointError(f"{stage} is in the way: it is not known who made it.", faults=sorted(strange))
    shutil.rmtree(stage / _CONTENT, ignore_errors=True)
    write_synced(stage / _REQUEST, json.dumps(_plain(request)).encode())
    sync(stage)


def _read(stage: Path) -> Any:
    """The request that was begun; None if there is none."""
    try:
        return json.loads((stage / _REQUEST).read_bytes())
    except (OSError, ValueError):
        return None


def _plain(request: Request) -> Any:
    return json.loads(json.dumps(request))

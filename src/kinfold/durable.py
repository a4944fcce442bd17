"""Having the operating system put things on the disk."""

from __future__ import annotations

import os
from pathlib import Path


def put_in_place(staged: Path, destination: Path) -> None:
    """Give a folder that is complete its name, once what is in it is on the disk; then wait for the name, too.

    Raises:
        OSError: Something with content has that name.
    """
    sync(staged)
    os.rename(staged, destination)
    sync(destination.parent)


def sync(path: Path) -> None:
    """Wait until what a file holds, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Checksums of weights, each computed once for every state of a file."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from kinfold.assets.places import cache_folder
from kinfold.errors import CardError

Checksum = str | dict[str, str]
"""`sha256:` and 64 digits of one file; or, of a folder, names of files and such."""

_FORM = re.compile(r"sha256:([0-9a-f]{64})", re.IGNORECASE)


def checksum_faults(checksum: Checksum | None) -> list[str]:
    """What is wrong with a checksum as it is written."""
    if checksum is None:
        return []
    faults = []
    for name, value in _by_name(checksum).items():
        at = f"`{name}`: " if name else ""
        if not _FORM.fullmatch(value):
            faults.append(f"{at}{value!r} should be `sha256:` and 64 hexadecimal digits")
        if name and {"", ".", ".."} & set(name.split("/")):
            faults.append(f"{at}should be the name of a file in the folder")
    return faults


def digest_of(checksum: Checksum | None, name: str) -> str | None:
    """The digest that a checksum says the file called `name` has, if any."""
    value = checksum.get(name) if isinstance(checksum, dict) else checksum
    found = _FORM.fullmatch(value) if value else None
    return found[1].lower() if found else None


def check_files(path: Path, checksum: Checksum) -> None:
    """Compare a file, or the files of a folder, with a checksum.

    Raises:
        CardError: Some differ, which are listed with both digests; or the checksum is one of a file and this a folder.
    """
    if path.is_dir() and isinstance(checksum, str):
        raise CardError(
            f"{path} is a folder, and the checksum that of one file.",
            hint="Write `checksum: {NAME: sha256:..., ...}`, with the names of its files.",
        )
    names = list(checksum) if path.is_dir() else [path.name]
    faults = [fault for name in names if (fault := _fault(path / name if path.is_dir() else path, name, checksum))]
    if faults:
        raise CardError(f"{path} is not what the checksum says:", faults=faults)


def _fault(file: Path, name: str, checksum: Checksum) -> str | None:
    expected = digest_of(checksum, name)
    if expected is None:
        return f"{name} has no checksum"
    if not file.is_file():
        return f"{name} is not there"
    found = sha256(file)
    return None if found == expected else f"{name}: sha256:{expected} is expected, it has sha256:{found}"


def sha256(file: Path) -> str:
    """The SHA-256 of a file, 64 lowercase digits; remembered in the cache until the file changes."""
    file = file.resolve()
    status = file.stat()
    # The time of the last change of the inode too: tools that copy set the other one back.
    state = {
        "file": str(file), "size": status.st_size, "mtime": status.st_mtime_ns, "ctime": status.st_ctime_ns,
    }  # fmt: skip
    note = cache_folder() / "checksums" / f"{hashlib.sha256(os.fsencode(file)).hexdigest()}.json"
    if digest := _remembered(note, state):
        return digest
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    _remember(note, {**state, "sha256": digest})
    return digest


def _remembered(note: Path, state: dict[str, Any]) -> str | None:
    try:
        kept = json.loads(note.read_bytes())
        digest = kept.pop("sha256")
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None  # never computed, or not by us
    return digest if kept == state else None


def _remember(note: Path, kept: dict[str, Any]) -> None:
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        written = note.with_suffix(f".{os.getpid()}")
        written.write_text(json.dumps(kept))
        os.replace(written, note)
    except OSError:
        pass  # a cache that cannot be written costs time and nothing else


def _by_name(checksum: Checksum) -> dict[str, str]:
    return checksum if isinstance(checksum, dict) else {"": checksum}

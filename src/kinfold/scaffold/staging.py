"""The folder from which a transaction replaces files, and from which it takes that back.

It lies on the same file system as the files. `new/N` is the content that file number N is to have, `old/N` the file
as it was. When all of that is safe on the disk, `new/N` is renamed to the file, or the file to `new/N` if it is to be
deleted. So the folder says how far this got, and `old/N` takes it back.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kinfold.durable import sync
from kinfold.errors import TransactionError


@dataclass(frozen=True, slots=True)
class Edit:
    """What one file, by its absolute path, holds and is to hold; None stands for no file."""

    file: Path
    before: bytes | None
    after: bytes | None


class Stage:
    """The folder of one commit.

    Args:
        parent: The folder in which it is created.
        edits: What is to be done; each of them a change.
    """

    def __init__(self, parent: Path, edits: Sequence[Edit]) -> None:
        self._parent = parent
        self._edits = edits
        self._new_folders = _missing([parent, *(edit.file.parent for edit in edits)])
        self._folder = parent / f"transaction-{secrets.token_hex(8)}"
        self._slots: list[_Slot] = []

    def fill(self) -> None:
        """Stage the new contents and keep the old files, none of which changes."""
        new, old = self._folder / "new", self._folder / "old"
        for folder in (*self._new_folders, self._folder, new, old):
            folder.mkdir()
        slots = [_Slot(edit, new / str(number), old / str(number)) for number, edit in enumerate(self._edits)]
        for slot in slots:
            slot.fill()
        for folder in (new, old, self._folder, self._parent):
            sync(folder)
        self._slots = slots  # from here on there may be something to take back

    def replace_files(self) -> None:
        """Do all edits, one by one."""
        for slot in self._slots:
            slot.replace()
        for folder in sorted({path.parent for path in [*self._new_folders, *(edit.file for edit in self._edits)]}):
            sync(folder)

    def take_back(self) -> None:
        """Undo what was done, however far it got, and remove the stage.

        Raises:
            TransactionError: Some files could not be put back, all of which are named. The stage stays, as it holds
                what was in them.
        """
        faults = []
        for slot in reversed(self._slots):
            try:
                slot.take_back()
            except OSError as error:
                faults.append(f"{slot.edit.file}, which is kept as {slot.old}: {error}")
        if faults:
            raise TransactionError("A commit failed, and files could not be put back:", faults=faults)
        self.remove()
        for folder in reversed(self._new_folders):
            with suppress(OSError):  # somebody else has put something there
                folder.rmdir()

    def remove(self) -> None:
        """Remove the stage, and the folder it is in if that was created for it and holds nothing else."""
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._parent in self._new_folders:
            with suppress(OSError):
                self._parent.rmdir()


@dataclass(frozen=True, slots=True)
class _Slot:
    """One edit, and its two files in the stage."""

    edit: Edit
    new: Path
    old: Path

    def fill(self) -> None:
        if self.edit.after is not None:
            with self.new.open("xb") as file:
                if self.edit.before is not None:
                    os.chmod(file.fileno(), stat.S_IMODE(self.edit.file.stat().st_mode))
                file.write(self.edit.after)
                file.flush()
                os.fsync(file.fileno())
        if self.edit.before is not None:
            _link_or_copy(self.edit.file, self.old)

    def replace(self) -> None:
        if self.edit.after is None:
            os.replace(self.edit.file, self.new)
        else:
            os.replace(self.new, self.edit.file)

    def take_back(self) -> None:
        is_done = self.new.exists() == (self.edit.after is None)
        if is_done and self.edit.before is not None:
            os.replace(self.old, self.edit.file)
        elif is_done:
            self.edit.file.unlink(missing_ok=True)


def _missing(folders: Iterable[Path]) -> list[Path]:
    """Those of the folders, and of the folders that they are in, that are not there; outer ones first."""
    return sorted({path for folder in folders for path in (folder, *folder.parents) if not path.exists()})


def _link_or_copy(file: Path, copy: Path) -> None:
    """Keep a file under another name: itself where the file system can, so that putting it back restores all of it."""
    try:
        os.link(file, copy)
    except OSError:
        shutil.copy2(file, copy)
        sync(copy)

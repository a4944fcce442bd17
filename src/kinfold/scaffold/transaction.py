"""Changing several files of a project as one: all of them or none.

Example:
    transaction = Transaction(root)
    transaction.write("mylab/llama/model.py", model)
    transaction.write("mylab/registry.py", registry)
    print(transaction.diff())
    transaction.commit()
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import unified_diff
from pathlib import Path, PurePath
from typing import Literal

from kinfold.errors import TransactionError
from kinfold.scaffold.staging import Edit, Stage

Change = Literal["created", "changed", "deleted", "unchanged"]


class Transaction:
    """Changes of files in one folder, planned one by one and made together by `commit`.

    Args:
        root: The folder; it is created if it is not there.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))
        self._edits: dict[str, Edit] = {}
        self._committed = False

    @property
    def changes(self) -> Mapping[str, Change]:
        """The kind of change of each file, by its path relative to the root, with slashes; sorted."""
        return {name: _change(edit) for name, edit in sorted(self._edits.items())}

    def write(self, path: str | PurePath, data: bytes) -> None:
        """Plan that the file at `path`, relative to the root, holds `data`. A file that is there keeps its mode.

        Raises:
            TransactionError: The path leads out of the root, or to something that is no regular file.
        """
        self._plan(path, data)

    def delete(self, path: str | PurePath) -> None:
        """Plan that there is no file at `path`, relative to the root; one that is not there is no change.

        Raises:
            TransactionError: As for `write`.
        """
        self._plan(path, None)

    def diff(self) -> str:
        """A unified diff from the files as they were found to the files as planned; "" if nothing changes.

        Files that are no UTF-8 text are only named.
        """
        return "".join(line for name, edit in sorted(self._edits.items()) for line in _diff(name, edit))

    def commit(self) -> None:
        """Make all changes. On any exception, an interrupt too, the files are what they were before.

        Files without a change are not touched.

        Raises:
            TransactionError: Files have changed since they were planned, all of which are named; a file cannot be
                written; or this transaction was committed before.
        """
        if self._committed:
            raise TransactionError(f"This transaction in {self.root} was committed before.")
        self._refuse_changed_files()
        edits = [edit for edit in self._edits.values() if _change(edit) != "unchanged"]
        if edits:
            self._carry_out(edits)
        self._committed = True

    def _plan(self, path: str | PurePath, after: bytes | None) -> None:
        file = self._resolve(path)
        name = file.relative_to(self.root).as_posix()
        before = self._edits[name].before if name in self._edits else _read(file)
        self._edits[name] = Edit(file, before, after)

    def _resolve(self, path: str | PurePath) -> Path:
        """The absolute path of a file in the root, without symbolic links."""
        relative = PurePath(path)
        file = Path(os.path.realpath(self.root / relative.parent)) / relative.name
        nearest = next(folder for folder in file.parents if folder.exists())
        if relative.is_absolute() or ".." in relative.parts or not relative.parts:
            fault = "it is no path of a file inside"
        elif not file.is_relative_to(self.root):
            fault = f"a symbolic link leads out, to {file}"
        elif not nearest.is_dir():
            fault = f"{nearest} is no folder"
        elif file.is_symlink() or (file.exists() and not file.is_file()):
            fault = "it is no regular file"
        else:
            return file
        raise TransactionError(
            f"{str(path)!r} cannot be changed in {self.root}: {fault}.",
            hint="Name a regular file by its path relative to that folder.",
        )

    def _refuse_changed_files(self) -> None:
        changed = [name for name, edit in sorted(self._edits.items()) if not _is_up_to_date(edit)]
        if changed:
            raise TransactionError(
                f"Files in {self.root} have changed in the meantime, so none was written:",
                faults=changed,
                hint="Run the command again: it starts from what they hold now.",
            )

    def _carry_out(self, edits: Sequence[Edit]) -> None:
        stage = Stage(self._resolve(".kinfold/stage").parent, edits)
        try:
            stage.fill()
            self._refuse_changed_files()  # again: filling the stage may have taken a while
            stage.replace_files()
        except BaseException as error:
            stage.take_back()
            if isinstance(error, OSError):
                raise TransactionError(f"The files in {self.root} are left as they were: {error}.") from error
            raise
        stage.remove()


def _change(edit: Edit) -> Change:
    if edit.before == edit.after:
        return "unchanged"
    if edit.before is None:
        return "created"
    return "deleted" if edit.after is None else "changed"


def _is_up_to_date(edit: Edit) -> bool:
    """Whether the file is still where it was, and holds what it held."""
    with suppress(OSError, TransactionError):
        return os.path.realpath(edit.file) == str(edit.file) and _read(edit.file) == edit.before
    return False


def _read(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TransactionError(f"{file} cannot be read: {error}.") from error


def _diff(name: str, edit: Edit) -> Iterator[str]:
    if edit.before == edit.after:
        return
    old = "/dev/null" if edit.before is None else f"a/{name}"
    new = "/dev/null" if edit.after is None else f"b/{name}"
    before, after = _lines(edit.before), _lines(edit.after)
    if before is None or after is None:
        yield f"Binary files {old} and {new} differ\n"
    elif not before and not after:
        yield f"--- {old}\n+++ {new}\n"  # a file without content comes or goes
    else:
        for line in unified_diff(before, after, old, new):
            yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"


def _lines(content: bytes | None) -> list[str] | None:
    """The lines of a text, each with its line end; None if it is no text."""
    try:
        text = (content or b"").decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else io.StringIO(text).readlines()

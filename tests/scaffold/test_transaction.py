"""All or nothing: every way in which a commit can fail leaves the tree as it was."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kinfold.errors import TransactionError
from kinfold.scaffold.transaction import Transaction

Tree = dict[str, tuple[int, bytes | None, int | None]]


def tree(root: Path) -> Tree:
    """Every file and folder: mode, content and time of change (of files)."""
    found: Tree = {}
    for path in sorted(root.rglob("*")):
        status, name = path.stat(), path.relative_to(root).as_posix()
        is_file = path.is_file()
        found[name] = (status.st_mode, path.read_bytes() if is_file else None, status.st_mtime_ns if is_file else None)
    return found


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a script, a registry, a file to delete, and one that stays."""
    root = tmp_path / "project"
    (root / "mylab").mkdir(parents=True)
    (root / "run.sh").write_bytes(b"echo 1\n")
    (root / "run.sh").chmod(0o750)
    (root / "mylab/registry.py").write_bytes(b"FAMILIES = {}\r\n")
    (root / "mylab/old.py").write_bytes(b"old = True\n")
    (root / "mylab/same.py").write_bytes(b"same = True\n")
    return root


AFTERWARDS = {
    "run.sh": b"echo 2\n",
    "mylab/registry.py": b'FAMILIES = {"llama": "mylab.llama"}\r\n',
    "mylab/same.py": b"same = True\n",
    "mylab/llama/__init__.py": b"",
    "mylab/llama/model.py": b"model = 1\n",
    ".kinfold/llama/spec.yaml": b"dim: 8\n",
}


def plan(root: Path) -> Transaction:
    """Everything that a transaction can do: create in new folders, change, delete, leave."""
    transaction = Transaction(root)
    for name, content in AFTERWARDS.items():
        transaction.write(name, content)
    transaction.delete("mylab/old.py")
    return transaction


def test_commit_makes_all_changes_and_leaves_nothing_behind(project: Path) -> None:
    before = tree(project)
    plan(project).commit()
    after = tree(project)
    assert contents(project) == AFTERWARDS
    assert after["mylab/same.py"] == before["mylab/same.py"]
    assert {path for path, (_, content, _) in after.items() if content is None} == {
        ".kinfold", ".kinfold/llama", "mylab", "mylab/llama",
    }  # fmt: skip


def test_modes_are_kept(project: Path) -> None:
    plan(project).commit()
    assert stat.S_IMODE((project / "run.sh").stat().st_mode) == 0o750
    (project / "plain").touch()
    assert (project / "mylab/llama/model.py").stat().st_mode == (project / "plain").stat().st_mode


def test_a_second_time_changes_nothing(project: Path) -> None:
    plan(project).commit()
    before = tree(project)
    again = plan(project)
    assert set(again.changes.values()) == {"unchanged"}
    assert again.diff() == ""
    again.commit()
    assert tree(project) == before


def test_without_changes_no_folder_is_made(tmp_path: Path) -> None:
    transaction = Transaction(tmp_path / "project")
    transaction.delete("nothing.py")
    transaction.commit()
    assert not (tmp_path / "project").exists()


def test_a_root_that_is_not_there_is_created(tmp_path: Path) -> None:
    transaction = Transaction(tmp_path / "some/project")
    transaction.write("a.py", b"a")
    transaction.commit()
    assert contents(tmp_path) == {"some/project/a.py": b"a"}
    assert not (tmp_path / "some/project/.kinfold").exists()


def test_changes_are_named_and_sorted(project: Path) -> None:
    assert list(plan(project).changes.items()) == [
        (".kinfold/llama/spec.yaml", "created"),
        ("mylab/llama/__init__.py", "created"),
        ("mylab/llama/model.py", "created"),
        ("mylab/old.py", "deleted"),
        ("mylab/registry.py", "changed"),
        ("mylab/same.py", "unchanged"),
        ("run.sh", "changed"),
    ]


def test_the_last_plan_of_a_file_counts(project: Path) -> None:
    transaction = Transaction(project)
    transaction.write("run.sh", b"echo 2\n")
    transaction.delete("run.sh")
    transaction.write("new.py", b"new")
    transaction.delete("new.py")
    assert transaction.changes == {"new.py": "unchanged", "run.sh": "deleted"}


def test_diff(project: Path) -> None:
    (project / "weights.bin").write_bytes(b"\0\1")
    (project / "latin.txt").write_bytes("für".encode("latin-1"))
    transaction = plan(project)
    transaction.write("weights.bin", b"\0\2")
    transaction.write("latin.txt", "für".encode())
    transaction.write("page.txt", b"one\x0cpage\ntwo")
    assert transaction.diff() == (
        "--- /dev/null\n"
        "+++ b/.kinfold/llama/spec.yaml\n"
        "@@ -0,0 +1 @@\n"
        "+dim: 8\n"
        "Binary files a/latin.txt and b/latin.txt differ\n"
        "--- /dev/null\n"
        "+++ b/mylab/llama/__init__.py\n"
        "--- /dev/null\n"
        "+++ b/mylab/llama/model.py\n"
        "@@ -0,0 +1 @@\n"
        "+model = 1\n"
        "--- a/mylab/old.py\n"
        "+++ /dev/null\n"
        "@@ -1 +0,0 @@\n"
        "-old = True\n"
        "--- a/mylab/registry.py\n"
        "+++ b/mylab/registry.py\n"
        "@@ -1 +1 @@\n"
        "-FAMILIES = {}\r\n"
        '+FAMILIES = {"llama": "mylab.llama"}\r\n'
        "--- /dev/null\n"
        "+++ b/page.txt\n"
        "@@ -0,0 +1,2 @@\n"
        "+one\x0cpage\n"
        "+two\n"
        "\\ No newline at end of file\n"
        "--- a/run.sh\n"
        "+++ b/run.sh\n"
        "@@ -1 +1 @@\n"
        "-echo 1\n"
        "+echo 2\n"
        "Binary files a/weights.bin and b/weights.bin differ\n"
    )


def failing(function: Callable[..., Any], number: int, error: BaseException, *, late: bool) -> Callable[..., Any]:
    """The function, but call `number`, from 1, raises `error`: instead of what it does, or `late`, after it."""
    calls = 0

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number and not late:
            raise error
        result = function(*args, **kwargs)
        if calls == number:
            raise error
        return result

    return call


@pytest.mark.parametrize(("function", "calls"), [("replace", 6), ("fsync", 8), ("mkdir", 6), ("chmod", 2)])
@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("error", "raised"),
    [(OSError(errno.ENOSPC, "No space left on device"), TransactionError), (KeyboardInterrupt(), KeyboardInterrupt)],
    ids=["error", "interrupt"],
)
def test_a_failure_at_any_call_leaves_the_tree_as_it_was(
    project: Path, function: str, calls: int, late: bool, error: BaseException, raised: type[BaseException]
) -> None:
    before = tree(project)
    for number in range(1, 100):
        transaction = plan(project)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, function, failing(getattr(os, function), number, error, late=late))
            try:
                transaction.commit()
            except raised:
                assert tree(project) == before, f"call {number} of os.{function}"
            else:
                assert contents(project) == AFTERWARDS
                assert number > calls
                return
    pytest.fail("no commit went through")


@pytest.mark.parametrize("number", range(1, 6))
def test_a_failure_removes_a_root_that_was_created(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    transaction = Transaction(tmp_path / "some/project")
    for name, content in AFTERWARDS.items():
        transaction.write(name, content)
    monkeypatch.setattr(os, "replace", failing(os.replace, number, KeyboardInterrupt(), late=False))
    with pytest.raises(KeyboardInterrupt):
        transaction.commit()
    assert tree(tmp_path) == {}


def test_without_hard_links_copies_take_their_place(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    before = tree(project)
    monkeypatch.setattr(os, "link", link)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", failing(os.replace, 6, KeyboardInterrupt(), late=True))
        with pytest.raises(KeyboardInterrupt):
            plan(project).commit()
    assert tree(project) == before
    plan(project).commit()
    assert contents(project) == AFTERWARDS


def test_what_cannot_be_put_back_is_named_and_kept(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def only_forwards(source: Path, target: Path) -> None:
        if source.parent.name == "old" or target.name == "registry.py":
            raise OSError(errno.EIO, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", only_forwards)
    with pytest.raises(TransactionError, match=r"could not be put back") as caught:
        plan(project).commit()
    (fault,) = caught.value.faults
    kept = next((project / ".kinfold").glob("*/old/0"))
    assert str(project / "run.sh") in fault
    assert str(kept) in fault
    assert kept.read_bytes() == b"echo 1\n"


def test_files_that_changed_in_the_meantime_are_all_named(project: Path) -> None:
    transaction = plan(project)
    (project / "run.sh").write_bytes(b"echo 3\n")
    (project / "mylab/same.py").write_bytes(b"same = False\n")
    (project / "mylab/old.py").unlink()
    (project / "mylab/llama").mkdir()
    (project / "mylab/llama/model.py").mkdir()
    before = tree(project)
    with pytest.raises(TransactionError) as caught:
        transaction.commit()
    assert caught.value.faults == ("mylab/llama/model.py", "mylab/old.py", "mylab/same.py", "run.sh")
    assert tree(project) == before


@pytest.mark.parametrize("name", ["run.sh", "mylab/old.py"])
def test_a_file_that_is_deleted_while_others_are_staged_stays_deleted(
    project: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    transaction = plan(project)
    fsync = os.fsync

    def slow(descriptor: int) -> None:
        (project / name).unlink(missing_ok=True)
        fsync(descriptor)

    before = {path: content for path, content in contents(project).items() if path != name}
    monkeypatch.setattr(os, "fsync", slow)
    with pytest.raises(TransactionError):
        transaction.commit()
    assert contents(project) == before


def test_a_folder_that_becomes_a_link_is_not_followed(project: Path, tmp_path: Path) -> None:
    transaction = Transaction(project)
    transaction.write("mylab/llama/model.py", b"model")
    (tmp_path / "outside").mkdir()
    (project / "mylab/llama").symlink_to(tmp_path / "outside")
    with pytest.raises(TransactionError, match=r"mylab/llama/model\.py"):
        transaction.commit()
    assert contents(tmp_path / "outside") == {}


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("../other.py", "no path of a file inside"),
        ("mylab/../../other.py", "no path of a file inside"),
        ("/etc/passwd", "no path of a file inside"),
        ("", "no path of a file inside"),
        (".", "no path of a file inside"),
        ("out/other.py", "a symbolic link leads out"),
        ("link.py", "no regular file"),
        ("mylab", "no regular file"),
        ("pipe", "no regular file"),
        ("run.sh/model.py", "run.sh is no folder"),
    ],
)
def test_paths_that_are_refused(project: Path, path: str, fault: str) -> None:
    (project / "out").symlink_to(project.parent)
    (project / "link.py").symlink_to("run.sh")
    os.mkfifo(project / "pipe")
    transaction = Transaction(project)
    for plan_it in (transaction.delete, lambda path: transaction.write(path, b"")):
        with pytest.raises(TransactionError, match=fault):
            plan_it(path)
    assert transaction.changes == {}


def test_a_linked_folder_inside_the_root_is_one_with_its_target(project: Path) -> None:
    (project / "alias").symlink_to("mylab")
    transaction = Transaction(project)
    transaction.write("alias/registry.py", b"1")
    transaction.write("mylab/registry.py", b"2")
    transaction.commit()
    assert transaction.changes == {"mylab/registry.py": "changed"}
    assert (project / "mylab/registry.py").read_bytes() == b"2"


def test_a_commit_is_made_once(project: Path) -> None:
    transaction = plan(project)
    transaction.commit()
    with pytest.raises(TransactionError, match="committed before"):
        transaction.commit()

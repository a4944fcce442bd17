"""What holds for every table: all small ones, as ruff formats them, read back with `ast` and formatted again."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from kinfold.scaffold.wire import add_family, remove_family

NAMES = ("bert", "gemma", "llama", "mamba", "qwen")


def tables() -> Iterator[str]:
    """Tables with none up to two entries, in either order, comments and blank lines in any place."""
    remarks = ("", "  # a remark")
    gaps = ("", "    # a line\n", "\n", "\n    # a line\n", "    # a line\n\n", "    # a line\n\n    # another\n")
    yield from ('FAMILIES = {"gemma": "a"}\n', 'FAMILIES: Final = {"mamba": "b", "gemma": "a"}\n')
    for names in ((), ("gemma",), ("gemma", "mamba"), ("mamba", "gemma")):
        for remark, first_gap, *others in product(remarks, *([gaps] * (len(names) + 1))):
            rows = [f'    "{name}": "a",{remark}\n{gap}' for name, gap in zip(names, others, strict=True)]
            yield f'"""Ours."""\n\nFAMILIES = {{{remark}\n{first_gap}{"".join(rows)}}}\n'


def ruff_format(folder: Path, *options: str) -> str:
    command = [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length", "79", *options, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@pytest.fixture(scope="module")
def formatted(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("tables")
    for number, table in enumerate(tables()):
        (folder / f"{number}.py").write_text(table)
    ruff_format(folder)
    return sorted({path.read_bytes() for path in folder.iterdir()})


def entries(source: bytes) -> list[tuple[str, str]]:
    statement = ast.parse(source).body[-1]
    assert isinstance(statement, ast.Assign | ast.AnnAssign)
    assert statement.value is not None
    return list(ast.literal_eval(statement.value).items())


def comments(source: bytes) -> list[str]:
    return [token.string for token in tokenize.tokenize(io.BytesIO(source).readline) if token.type == tokenize.COMMENT]


def test_adding_keeps_all_else_and_is_undone_by_removing(formatted: list[bytes]) -> None:
    for source, name in product(formatted, NAMES):
        before = entries(source)
        if name not in dict(before):
            added = add_family(source, name, "a")
            after = entries(added)
            assert [entry for entry in after if entry not in before] == [(name, "a")]
            assert [entry for entry in after if entry in before] == before
            assert before != sorted(before) or after == sorted(after)
            assert comments(added) == comments(source)
            assert remove_family(added, name) == source


def test_what_was_formatted_stays_formatted(formatted: list[bytes], tmp_path: Path) -> None:
    changed = {add_family(source, name, "a") for source, name in product(formatted, NAMES[::2])}
    changed |= {remove_family(source, name) for source, name in product(formatted, NAMES[1::2])}
    for number, source in enumerate(sorted(changed)):
        (tmp_path / f"{number}.py").write_bytes(source)
    assert len(changed) > 400
    assert ruff_format(tmp_path, "--diff") == ""

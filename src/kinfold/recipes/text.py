"""Reading what is trained on: plain text, and JSONL.

Every line that is not as it should be is named with its file and number, all in one error.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kinfold.checkpoint.strict_json import parse_json
from kinfold.errors import CheckpointError, TrainingError

PLAIN, JSONL = ".txt", ".jsonl"
SHOWN = 20
"""How many faults are listed; of the rest the number is given."""


@dataclass(frozen=True, slots=True)
class Document:
    """A text, all of which is to be learned."""

    text: str
    place: str


@dataclass(frozen=True, slots=True)
class Pair:
    """A text to be learned, and what it follows on: a completion and its prompt, a target and its source."""

    given: str
    wanted: str
    place: str


@dataclass(slots=True)
class Corpus:
    """What a file or folder holds.

    Attributes:
        items: The texts and pairs, in the order of the files and of their lines.
        num_files: How many files were read.
        num_skipped_files: How many files of the folder are of another kind.
        num_empty: How many empty texts were left out.
    """

    items: list[Document | Pair] = field(default_factory=list)
    num_files: int = 0
    num_skipped_files: int = 0
    num_empty: int = 0

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out, for people."""
        counts = {"files of another kind": self.num_skipped_files, "empty texts": self.num_empty}
        return tuple(f"{what} that are left out: {count}" for what, count in counts.items() if count)


def read_texts(
    path: str | Path, *, text_field: str = "text", prompt_field: str = "prompt", completion_field: str = "completion"
) -> Corpus:
    """The documents and pairs of a .txt file (one document), a .jsonl file, or a folder of such at any depth.

    Args:
        path: The file or folder.
        text_field: A row of JSONL that has this is a document.
        prompt_field: One that has this and the next is a pair.
        completion_field: See above.

    Raises:
        TrainingError: There is nothing to read, or there are lines that are neither; they are listed.
    """
    layouts = ((text_field,), (prompt_field, completion_field))
    return _read(Path(path), (PLAIN, JSONL), layouts)


def read_pairs(path: str | Path, *, source_field: str = "source", target_field: str = "target") -> Corpus:
    """The pairs of a .jsonl file, or of a folder of such at any depth.

    Raises:
        TrainingError: There is nothing to read, or there are lines that are no pairs; they are listed.
    """
    return _read(Path(path), (JSONL,), ((source_field, target_field),))


def _read(path: Path, suffixes: Sequence[str], layouts: Sequence[tuple[str, ...]]) -> Corpus:
    corpus, faults = Corpus(), []
    for file in _files(path, suffixes, corpus):
        corpus.num_files += 1
        try:
            data = file.read_bytes().removeprefix(codecs.BOM_UTF8)
        except OSError as error:
            faults.append(f"{file} cannot be read: {error.strerror}")
            continue
        if file.suffix == PLAIN:
            _take({"": _text_of(data, str(file), faults)}, str(file), ("",), corpus)
            continue
        for number, line in enumerate(data.split(b"\n"), start=1):
            if line.strip():
                place = f"{file}:{number}"
                row = _row(line, place, layouts, faults)
                _take(row, place, tuple(row), corpus)
    if faults:
        raise TrainingError(f"{path} has {len(faults)} things that cannot be read:", faults=_some(faults))
    if not corpus.items:
        raise TrainingError(f"{path} has no text in it.")
    return corpus


def _files(path: Path, suffixes: Sequence[str], corpus: Corpus) -> list[Path]:
    """The files to read, in the order of their names; those of other kinds are counted."""
    known = " or ".join(suffixes)
    if path.is_file():
        if path.suffix not in suffixes:
            raise TrainingError(f"{path} is no {known} file.", hint="Other kinds of files are to be converted first.")
        return [path]
    if not path.is_dir():
        raise TrainingError(f"{path} does not exist.", hint=f"The data is a {known} file, or a folder of such.")
    inside = sorted(file for file in path.rglob("*") if file.is_file() and not _is_hidden(file.relative_to(path)))
    files = [file for file in inside if file.suffix in suffixes]
    if not files:
        raise TrainingError(f"{path} has no {known} file in it.")
    corpus.num_skipped_files = len(inside) - len(files)
    return files


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _take(row: Mapping[str, str], place: str, fields: tuple[str, ...], corpus: Corpus) -> None:
    """Add a row; an empty text is counted instead. A prompt may be empty, what is to be learned may not."""
    if not fields:  # it was at fault
        return
    *given, wanted = (row[name] for name in fields)
    if not wanted.strip():
        corpus.num_empty += 1
    else:
        corpus.items.append(Pair(given[0], wanted, place) if given else Document(wanted, place))


def _row(line: bytes, place: str, layouts: Sequence[tuple[str, ...]], faults: list[str]) -> dict[str, str]:
    """The fields of a row of JSONL that are asked for; none, and a fault, if it has no such."""
    try:
        row = parse_json(line, place=place)
    except CheckpointError as error:
        faults.append("; ".join((error.summary, *error.faults)))
        return {}
    wanted = " or ".join(" and ".join(f"`{name}`" for name in layout) for layout in layouts)
    if not isinstance(row, dict):
        faults.append(f"{place} is a {type(row).__name__}, not an object with {wanted}")
        return {}
    fitting = [layout for layout in layouts if all(name in row for name in layout)]
    if len(fitting) != 1:
        has = ", ".join(f"`{name}`" for name in row) or "nothing"
        faults.append(f"{place} has {has}, where {wanted} {'alone ' if fitting else ''}was expected")
        return {}
    before = len(faults)
    found = {name: _string(row[name], f"{place}, `{name}`,", faults) for name in fitting[0]}
    return found if len(faults) == before else {}


def _string(value: Any, place: str, faults: list[str]) -> str:
    if not isinstance(value, str):
        faults.append(f"{place} is a {type(value).__name__}, not a text")
        return ""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        faults.append(f"{place} is no Unicode: {error.reason}")
    return value


def _text_of(data: bytes, place: str, faults: list[str]) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        faults.append(f"{place}:{line} is not UTF-8: {error.reason} ({data[error.start]:#04x})")
        return "x"  # not empty, which would be counted


def _some(faults: Sequence[str]) -> list[str]:
    rest = len(faults) - SHOWN
    return [*faults[:SHOWN], *([f"and {rest} more"] if rest > 0 else [])]

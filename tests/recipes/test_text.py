"""Reading what is trained on: what is read, in which order, and what is said of lines that cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kinfold.errors import TrainingError
from kinfold.recipes.text import Document, Pair, read_pairs, read_texts


def write_rows(path: Path, *rows: Any) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\n\ntwo é\n", encoding="utf-8")
    assert read_texts(path).items == [Document("one\n\ntwo é\n", str(path))]


def test_rows_are_documents_or_pairs_by_the_keys_they_have(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", {"text": "x", "id": 7}, "", {"prompt": "", "completion": "c"})
    assert read_texts(path).items == [Document("x", f"{path}:1"), Pair("", "c", f"{path}:3")]


def test_the_keys_can_be_called_otherwise(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", {"body": "x"}, {"q": "p", "a": "c"})
    items = read_texts(path, text_field="body", prompt_field="q", completion_field="a").items
    assert [type(item) for item in items] == [Document, Pair]
    pairs = write_rows(tmp_path / "b.jsonl", {"en": "hello", "fr": "bonjour"})
    assert read_pairs(pairs, source_field="en", target_field="fr").items == [Pair("hello", "bonjour", f"{pairs}:1")]


def test_a_folder_is_read_in_the_order_of_its_names_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.txt").write_text("third")
    (tmp_path / "a.txt").write_text("first")
    write_rows(tmp_path / "a2.jsonl", {"text": "second"}, {"text": " \n"})
    (tmp_path / "notes.md").write_text("not read")
    (tmp_path / ".hidden.txt").write_text("not read")
    corpus = read_texts(tmp_path)
    assert [item.text for item in corpus.items if isinstance(item, Document)] == ["first", "second", "third"]
    assert corpus.notes == ("files of another kind that are left out: 1", "empty texts that are left out: 1")


def test_every_line_that_cannot_be_read_is_named_at_once(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "a.jsonl",
        "{not json",
        ["text"],
        {"txt": "x"},
        {"text": 3},
        {"text": "x", "prompt": "p", "completion": "c"},
        '{"text": "\\ud800"}',
        '{"text": "a", "text": "b"}',
        {"text": "good"},
    )
    (tmp_path / "b.txt").write_bytes(b"fine\nnot \xff\n")
    with pytest.raises(TrainingError) as caught:
        read_texts(tmp_path)
    faults = caught.value.faults
    assert f"{tmp_path} has 8 things that cannot be read" in caught.value.summary
    assert [fault.partition(" ")[0].rstrip(",") for fault in faults[:-1]] == [f"{path}:{n}" for n in range(1, 8)]
    assert "is a list, not an object with `text` or `prompt` and `completion`" in faults[1]
    assert "has `txt`, where `text` or `prompt` and `completion` was expected" in faults[2]
    assert "`text`, is a int, not a text" in faults[3]
    assert "alone was expected" in faults[4]
    assert "is no Unicode" in faults[5]
    assert "the key 'text' stands twice" in faults[6]
    assert faults[7] == f"{tmp_path / 'b.txt'}:2 is not UTF-8: invalid start byte (0xff)"


def test_of_many_faults_some_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="has 1000 things") as caught:
        read_texts(write_rows(tmp_path / "a.jsonl", *["["] * 1000))
    assert len(caught.value.faults) == 21
    assert caught.value.faults[-1] == "and 980 more"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.txt", None, "does not exist"),
        ("a.csv", "x", r"is no .txt or .jsonl file"),
        ("a.txt", " \n ", "has no text in it"),
        ("a.jsonl", "", "has no text in it"),
    ],
)
def test_there_is_nothing_to_read(tmp_path: Path, name: str, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(TrainingError, match=said):
        read_texts(tmp_path / name)


def test_a_folder_without_a_file_to_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text is no pair")
    with pytest.raises(TrainingError, match=r"has no .jsonl file in it"):
        read_pairs(tmp_path)

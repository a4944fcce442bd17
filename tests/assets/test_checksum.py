"""Checksums: compared when weights are asked for, computed once for every state of a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kinfold.assets import cache_folder, read_card, sha256
from kinfold.errors import CardError

WriteCard = Callable[..., Path]
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
"""The SHA-256 of the three letters, from the standard's own example (FIPS 180-4)."""
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_file(card: WriteCard, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    weights.write_text("abc")
    found = read_card(card("x", f"model_family: llama\ncheckpoint: {weights}\nchecksum: sha256:{ABC.upper()}"))
    assert found.checkpoint == found.tokenizer == weights
    weights.write_text("")
    with pytest.raises(CardError) as error:
        _ = found.checkpoint
    assert error.value.summary.startswith(f"{found.source}: `checkpoint` is {str(weights)!r}. ")
    assert error.value.faults == (f"w.safetensors: sha256:{ABC} is expected, it has sha256:{EMPTY}",)
    assert found.checkpoint_place
    assert found.checkpoint_place.here() == weights  # which checks nothing
    weights.unlink()
    assert found.checkpoint == weights  # what is not there is said by who opens it


def test_a_folder(card: WriteCard, tmp_path: Path) -> None:
    folder = tmp_path / "w"
    folder.mkdir()
    for name, text in (("a", "abc"), ("b", "abc")):
        (folder / name).write_text(text)
    text = f"model_family: llama\ncheckpoint: {folder}\nchecksum: "
    assert read_card(card("x", f"{text}{{a: sha256:{ABC}, b: sha256:{ABC}}}")).checkpoint == folder
    found = read_card(card("x", f"{text}{{a: sha256:{EMPTY}, b: sha256:{ABC}, c: sha256:{ABC}}}"))
    with pytest.raises(CardError) as error:
        _ = found.checkpoint
    assert error.value.faults == (f"a: sha256:{EMPTY} is expected, it has sha256:{ABC}", "c is not there")
    with pytest.raises(CardError, match="is a folder, and the checksum that of one file"):
        _ = read_card(card("x", f"{text}sha256:{ABC}")).checkpoint
    with pytest.raises(CardError, match="a has no checksum"):
        _ = read_card(
            card("x", f"model_family: llama\ncheckpoint: {folder}/a\nchecksum: {{b: sha256:{ABC}}}")
        ).checkpoint


@pytest.mark.parametrize(
    ("checksum", "said"),
    [
        ("abc", "'abc' should be `sha256:` and 64"),
        (f"md5:{ABC}", "should be `sha256:`"),
        (f"sha256:{ABC[1:]}", "should be `sha256:`"),
        ("{a: b}", "`a`: 'b' should be"),
        (f"{{../a: sha256:{ABC}}}", "should be the name of a file in the folder"),
        (f"{{/a: sha256:{ABC}}}", "should be the name of a file in the folder"),
    ],
)
def test_malformed_checksums_are_refused(card: WriteCard, checksum: str, said: str) -> None:
    with pytest.raises(CardError, match=said):
        read_card(card("x", f"model_family: llama\ncheckpoint: w\nchecksum: {checksum}"))


def test_a_file_is_read_once_for_every_state_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    computed = []
    real = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: computed.append(file.name) or real(file, name))
    file = tmp_path / "w"
    file.write_text("abc")
    times = file.stat()
    assert [sha256(file), sha256(file)] == [ABC, ABC]
    assert len(computed) == 1
    file.write_text("abd")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # size and time are as they were
    assert sha256(file) != ABC
    assert len(computed) == 2
    (note,) = (cache_folder() / "checksums").iterdir()
    for spoilt in ("", "[]", '{"sha256": 1}', note.read_text().replace(str(file), "other")):
        note.write_text(spoilt)
        assert sha256(file) != ABC
    assert len(computed) == 6


def test_a_cache_that_cannot_be_written_hinders_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("abc")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert sha256(tmp_path / "file") == ABC

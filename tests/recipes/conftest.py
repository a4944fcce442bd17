"""A tiny llama with a tokenizer of its own, which a card of the user names."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from verses import SIZES, TEXT, VOCAB_SIZE, write_tokenizer

from kinfold.assets import user_cards_folder, write_card


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's own settings are read or written."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_checkpoint: Callable[..., Path]) -> Path:
    """The checkpoint that transformers wrote, with a tokenizer."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint("llama", vocab_size=VOCAB_SIZE), folder)
    return write_tokenizer(folder)


@pytest.fixture
def tiny(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with `verses.txt`, where the card `tiny` names the checkpoint."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    cards = user_cards_folder()
    write_card(cards, name="tiny", model_family="llama", model_config=SIZES, checkpoint=checkpoint)
    (folder / "verses.txt").write_text(TEXT)
    return folder

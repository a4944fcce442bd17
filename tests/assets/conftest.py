"""Cards in folders that are nobody's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No card, cache or permission of whoever runs the tests."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for variable in ("KINFOLD_CARDS", "KINFOLD_ALLOW_HTTPS"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def card(tmp_path: Path) -> Callable[..., Path]:
    """Writes a card of the user's: `card("x", "model_family: llama")`; in another folder if one is given."""

    def write(name: str, text: str, folder: Path | None = None) -> Path:
        folder = folder or tmp_path / "config" / "kinfold" / "cards"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.yaml"
        path.write_text(f"name: {name}\n{text}\n")
        return path

    return write

"""What tests of several parts share: tiny checkpoints, and a project that leaves no trace."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from kinfold import registry
from kinfold.assets import places
from kinfold.loader import load_model
from kinfold.scaffold.project import Project, find_project, init_project


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Gives the folder of a tiny checkpoint: `tiny_checkpoint("llama", seed=1, ...)`, each written once."""
    from tiny import write_checkpoint

    @cache
    def write(kind: str, **values: Any) -> Path:
        return write_checkpoint(tmp_path_factory.mktemp(kind) / kind, kind, **values)

    return write


@pytest.fixture(autouse=True)
def nobodys_settings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No cards of whoever runs the tests."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "settings"))
    monkeypatch.delenv("KINFOLD_CARDS", raising=False)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A new project, which is the current folder; what is imported from it is forgotten afterwards."""
    folder = tmp_path / "mylab"
    init_project(folder).commit()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(registry.families, "_added", {})
    monkeypatch.setattr(places, "_added", [])
    for registrations in (registry.model_factories.registrations, load_model.registrations):
        monkeypatch.setattr(registrations, "_values", dict(registrations._values))
    registry.families.__dict__.pop("modules", None)
    found = find_project()
    assert found is not None
    yield found
    registry.families.__dict__.pop("modules", None)
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]

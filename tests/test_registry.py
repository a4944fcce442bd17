"""Registries: archs by name, families by module, each imported when it is asked for."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from kinfold.errors import RegistryError
from kinfold.registry import ConfigRegistry, FamilyIndex


@dataclass
class Config:
    width: int = 4


def test_a_config_is_fresh_each_time() -> None:
    archs = ConfigRegistry[Config]()
    archs.register("small", Config)
    archs.get("small").width = 8
    assert archs.get("small") == Config(width=4)


def test_the_first_arch_is_the_default() -> None:
    archs = ConfigRegistry[Config]()

    @archs.decorator("b")
    def _b() -> Config:
        return Config(2)

    archs.register("a", Config)
    assert archs.get() == Config(2)
    assert archs.names() == ("b", "a")


def test_wrong_archs_are_refused() -> None:
    archs = ConfigRegistry[Config]()
    archs.register("small", Config)
    with pytest.raises(RegistryError, match="Did you mean 'small'"):
        archs.get("smal")
    with pytest.raises(RegistryError, match="registered twice"):
        archs.register("small", Config)


def test_two_packages_cannot_share_a_family() -> None:
    index = FamilyIndex()
    index.add({"x": "one.x"})
    index.add({"x": "one.x"})
    with pytest.raises(RegistryError, match=r"one\.x and two\.x"):
        index.add({"x": "two.x"})


def test_an_entry_point_that_fails_raises(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken_families.py").write_text("import no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    point = importlib.metadata.EntryPoint("broken", "broken_families:FAMILIES", "kinfold.families")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point])
    with pytest.raises(RegistryError, match=r"broken_families:FAMILIES.*no_such_module"):
        _ = FamilyIndex().modules


def test_200_families_are_known_and_none_imported(tmp_path: Path) -> None:
    package = tmp_path / "many"
    package.mkdir()
    (package / "__init__.py").write_text("")
    for number in range(200):
        (package / f"f{number}.py").write_text("raise AssertionError('imported')\n")
    table = {f"f{number}": f"many.f{number}" for number in range(200)}
    code = (
        "import sys; from kinfold.registry import families, model_factories\n"
        f"families.add({table})\n"
        "assert {'f0', 'f199'} <= set(model_factories.names())\n"
        "assert not {'torch', 'many.f0'} & set(sys.modules), sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env={"PYTHONPATH": ":".join(sys.path)})

"""Where cards are found: packages of families, the project at hand, the user's folder, KINFOLD_CARDS."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kinfold import retrieve_asset_card
from kinfold.assets import cache_folder, card_files, user_cards_folder
from kinfold.errors import CardError
from kinfold.registry import families
from kinfold.scaffold.project import Project

WriteCard = Callable[..., Path]


def test_in_the_project_at_hand(project: Project, card: WriteCard) -> None:
    cards = project.root / "mylab" / "cards"
    (project.root / project.registry).write_text('FAMILIES = {"a": "mylab.a"}\n')
    project.activate()
    card("x", "model_family: a", cards)
    assert retrieve_asset_card("x").source == cards / "x.yaml"
    assert retrieve_asset_card("llama").model_family == "llama"
    with pytest.raises(CardError, match="Did you mean 'llama'"):
        retrieve_asset_card("lama")
    second = card("llama", "model_family: a", cards)
    with pytest.raises(CardError, match="There are 2 cards 'llama'") as error:
        retrieve_asset_card("llama")
    assert str(second) in error.value.faults
    assert len(error.value.faults) == 2


def test_in_a_package_inside_of_another_which_is_not_imported(project: Project, card: WriteCard) -> None:
    inner = project.root / "mylab" / "models"
    inner.mkdir()
    for folder in (inner, inner.parent):
        (folder / "__init__.py").write_text("raise RuntimeError\n")
    project.activate()
    families.add({"a": "mylab.models.a"})
    expected = {card("x", "model_family: a", inner / "cards"), card("y", "model_family: a", inner.parent / "cards")}
    assert expected <= set(card_files())


def test_in_the_folder_of_the_user(card: WriteCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = card("x", "model_family: llama")
    assert retrieve_asset_card("x").source == path == user_cards_folder() / "x.yaml"
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative/path"):  # which the specification says to pass over
        monkeypatch.setenv("XDG_CONFIG_HOME", value)
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert user_cards_folder() == tmp_path / ".config" / "kinfold" / "cards"
        assert cache_folder() == tmp_path / ".cache" / "kinfold"
    assert path not in set(card_files())


def test_in_the_folders_of_the_variable(card: WriteCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (card(name, "model_family: llama", tmp_path / name) for name in ("a", "b"))
    monkeypatch.setenv("KINFOLD_CARDS", os.pathsep.join([str(first.parent), "", str(second.parent)]))
    assert list(card_files())[-2:] == [first, second]
    twice = card("a", "model_family: llama")
    with pytest.raises(CardError, match="There are 2 cards 'a'") as error:
        retrieve_asset_card("a")
    assert error.value.faults == (str(twice), str(first))
    assert retrieve_asset_card(twice).source == twice
    monkeypatch.setenv("KINFOLD_CARDS", os.pathsep.join([str(tmp_path / "no"), str(first)]))
    with pytest.raises(CardError) as error:
        retrieve_asset_card("a")
    assert error.value.faults == (str(tmp_path / "no"), str(first))


def test_a_folder_that_is_named_twice_has_its_cards_once(
    card: WriteCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = card("x", "model_family: llama")
    (tmp_path / "link").symlink_to(path.parent)
    monkeypatch.setenv("KINFOLD_CARDS", os.pathsep.join([str(path.parent), str(tmp_path / "link")]))
    assert [file for file in card_files() if file.stem == "x"] == [path]


def test_other_files_are_no_cards(card: WriteCard) -> None:
    folder = card("x", "model_family: llama").parent
    (folder / "README.md").write_text("")
    assert [file for file in card_files() if file.parent == folder] == [folder / "x.yaml"]

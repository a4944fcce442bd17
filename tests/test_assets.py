"""Cards: read strictly, found by name, paths relative to their file."""

from __future__ import annotations

from pathlib import Path

import pytest

from kinfold import retrieve_asset_card
from kinfold.assets import read_card
from kinfold.errors import CardError
from kinfold.scaffold.project import Project


def card(folder: Path, text: str, name: str = "x") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


def test_a_whole_card(tmp_path: Path) -> None:
    text = "name: x\nmodel_family: llama\nmodel_arch: 7b\nmodel_config: {num_layers: 2}\ncheckpoint: file:weights\n"
    found = read_card(card(tmp_path, text))
    assert (found.name, found.model_family, found.model_arch) == ("x", "llama", "7b")
    assert found.model_config == {"num_layers": 2}
    assert found.checkpoint == found.tokenizer == tmp_path / "weights"


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("file:/a/b", "/a/b"),
        ("file:///a/b", "/a/b"),
        ("/a/b", "/a/b"),
        ("file:../b", "../b"),
        ("b/c.gguf", "b/c.gguf"),
        ("file:///a/with%20space", "/a/with space"),
    ],
)
def test_places(tmp_path: Path, uri: str, expected: str) -> None:
    found = read_card(card(tmp_path, f"name: x\nmodel_family: llama\ncheckpoint: {uri}\n"))
    assert found.checkpoint == (tmp_path / expected).resolve()


def test_a_tokenizer_of_its_own(tmp_path: Path) -> None:
    found = read_card(card(tmp_path, "name: x\nmodel_family: llama\ntokenizer: tok\n"))
    assert (found.checkpoint, found.tokenizer) == (None, tmp_path / "tok")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: y\nmodel_family: llama\n", "calls itself 'y'"),
        ("name: x\n", "missing required field `model_family`"),
        ("name: x\nmodel_famly: llama\n", "did you mean `model_family`"),
        ("name: x\nmodel_family: llama\ncheckpoint: https://example.com/x\n", "scheme 'https'"),
        ("name: x\nmodel_family: [llama]\n", "Expected `str`"),
    ],
)
def test_malformed_cards_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(CardError, match=said):
        read_card(card(tmp_path, text))


def test_cards_are_found_by_name(project: Project) -> None:
    cards = project.root / "mylab" / "cards"
    (project.root / project.registry).write_text('FAMILIES = {"a": "mylab.a"}\n')
    project.activate()
    card(cards, "name: x\nmodel_family: a\n")
    assert retrieve_asset_card("x").source == cards / "x.yaml"
    assert retrieve_asset_card("llama").model_family == "llama"
    with pytest.raises(CardError, match="Did you mean 'llama'"):
        retrieve_asset_card("lama")
    card(cards, "name: llama\nmodel_family: a\n", "llama")
    with pytest.raises(CardError, match="There are 2 cards 'llama'"):
        retrieve_asset_card("llama")

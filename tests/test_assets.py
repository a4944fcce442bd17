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
        ("/a/with%20percent", "/a/with%20percent"),
        ('"a folder: 1"', "a folder: 1"),
        ("~/a", "~/a"),
    ],
)
def test_places(tmp_path: Path, uri: str, expected: str) -> None:
    found = read_card(card(tmp_path, f"name: x\nmodel_family: llama\ncheckpoint: {uri}\n"))
    assert found.checkpoint == (tmp_path / Path(expected).expanduser()).resolve()


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
        ("name: x\nmodel_family: llama\ncheckpoint: s3://bucket/x\n", "scheme 's3'"),
        ("name: x\nmodel_family: llama\ntokenizer: hg:x\n", "scheme 'hg'"),
        ("name: x\nmodel_family: [llama]\n", "Expected `str`"),
        ("name: x\nmodel_family: llama\nmodel_config: [1]\n", "Expected `object`"),
        ("name: x\nname: x\nmodel_family: llama\n", "the key 'name' stands twice"),
        ("name: x: y\n", "not valid YAML"),
        ("", "missing required field"),
    ],
)
def test_malformed_cards_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(CardError, match=said):
        read_card(card(tmp_path, text))


def test_unknown_keys_come_all_at_once(tmp_path: Path) -> None:
    with pytest.raises(CardError) as error:
        read_card(card(tmp_path, "name: x\nmodel_familly: llama\ncheckpiont: a\n"))
    assert error.value.summary == f"{tmp_path / 'x.yaml'} is not as it should be:"
    assert error.value.faults == (
        "`model_familly` is not known; did you mean `model_family`?",
        "`checkpiont` is not known; did you mean `checkpoint`?",
    )


def test_a_card_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CardError, match="cannot be read"):
        read_card(tmp_path / "x.yaml")


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

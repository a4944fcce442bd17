"""Cards that are written: what is read from them is what was to be said."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kinfold.assets import read_card, retrieve_asset_card, user_cards_folder, write_card
from kinfold.errors import CardError
from kinfold.nn import LinearScaling


def test_what_stands_in_the_file(tmp_path: Path) -> None:
    path = write_card(
        tmp_path / "run" / "cards",
        name="tuned",
        model_family="llama",
        model_arch="7b",
        model_config={"norm_eps": 1e-6, "rope_scaling": LinearScaling(factor=2.0), "sizes": (1, 2)},
        checkpoint=tmp_path / "run" / "last step",
        checksum=f"sha256:{'0' * 64}",
        tokenizer=tmp_path / "tokenizer",
        base="llama",
    )
    assert path == tmp_path / "run" / "cards" / "tuned.yaml"
    expected = f"""\
name: tuned
model_family: llama
model_arch: 7b
model_config:
  norm_eps: 1.0e-06
  rope_scaling:
    factor: 2.0
  sizes:
  - 1
  - 2
checkpoint: file:../last%20step
checksum: sha256:{"0" * 64}
tokenizer: {(tmp_path / "tokenizer").as_uri()}
base: llama
"""
    assert path.read_text() == expected
    assert [file.name for file in path.parent.iterdir()] == ["tuned.yaml"]


def test_a_written_card_is_found(tmp_path: Path) -> None:
    write_card(user_cards_folder(), name="x", base="llama", checkpoint=tmp_path / "w")
    found = retrieve_asset_card("x")
    assert (found.model_family, found.model_arch, found.checkpoint) == ("llama", "7b", tmp_path / "w")


@pytest.mark.parametrize("where", ["cards/w", "cards", "w", "../w", "a/b/w é%20#?", "a: b"])
def test_paths_lead_where_they_should(tmp_path: Path, where: str) -> None:
    weights = (tmp_path / "run" / where).resolve()
    path = write_card(tmp_path / "run" / "cards", name="x", model_family="llama", checkpoint=weights)
    assert read_card(path).checkpoint == weights
    assert ("file:///" in path.read_text()) == (where == "../w")


def test_a_card_that_is_there_is_replaced_only_if_that_is_said(tmp_path: Path) -> None:
    path = write_card(tmp_path, name="x", model_family="llama")
    with pytest.raises(CardError, match="exists"):
        write_card(tmp_path, name="x", model_family="other")
    assert read_card(path).model_family == "llama"
    write_card(tmp_path, name="x", model_family="other", overwrite=True)
    assert read_card(path).model_family == "other"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"name": "a/b"}, "'a/b' cannot be the name of a card"),
        ({"name": ""}, "cannot be the name"),
        ({"name": ".x"}, "cannot be the name"),
        ({"model_family": None}, "missing required field `model_family`"),
        ({"checksum": "x"}, "`checksum`: 'x' should be"),
        ({"model_config": {"a": object()}}, "cannot say that"),
        ({"model_config": {"a": math.nan}}, "would not say what it should"),
    ],
)
def test_what_would_be_no_card_is_not_written(tmp_path: Path, values: dict[str, Any], said: str) -> None:
    with pytest.raises(CardError, match=said):
        write_card(tmp_path, **{"name": "x", "model_family": "llama", **values})
    assert list(tmp_path.rglob("*.yaml")) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CardError, match="cannot be written"):
        write_card(tmp_path / "file", name="x", model_family="llama")


PLAIN = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.sampled_from(["1e5", "no"])
)
CONFIGS = st.dictionaries(
    st.text(), st.recursive(PLAIN, lambda some: st.lists(some) | st.dictionaries(st.text(), some))
)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(config=CONFIGS)
def test_every_config_comes_back_as_it_was(tmp_path: Path, config: dict[str, Any]) -> None:
    path = write_card(tmp_path, name="x", model_family="llama", model_config=config, overwrite=True)
    assert read_card(path).model_config == config

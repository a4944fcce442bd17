"""One card: read strictly, paths relative to its file, used only where its family is known."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from kinfold import load_model, retrieve_asset_card
from kinfold.assets import AssetCard, read_card
from kinfold.assets.file import read_card_file
from kinfold.errors import CardError, RegistryError
from kinfold.loader import find_card


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
        ("model_family: x\n", "missing required field `name`"),
        ("name: x\nmodel_famly: llama\n", "did you mean `model_family`"),
        ("name: x\nmodel_family: llama\ncheckpoint: http://example.com/x\n", "scheme 'http'"),
        ("name: x\nmodel_family: llama\ncheckpoint: s3://bucket/x\n", "scheme 's3'"),
        ("name: x\nmodel_family: llama\ntokenizer: hg:x\n", "scheme 'hg'"),
        ("name: x\nmodel_family: [llama]\n", r"Expected `str \| null`"),
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


def test_every_fault_of_the_values_comes_at_once(tmp_path: Path) -> None:
    with pytest.raises(CardError) as error:
        read_card(card(tmp_path, "name: y\ncheckpoint: s3:x\nchecksum: md5\ntokenizer: hf://x\n"))
    assert [fault.partition(" ")[0] for fault in error.value.faults] == [
        "it",
        "missing",
        "`checkpoint`:",
        "`tokenizer`:",
        "`checksum`:",
    ]


def test_a_card_can_be_named_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = card(tmp_path, "name: x\nmodel_family: llama\ncheckpoint: w\n")
    monkeypatch.chdir(tmp_path)
    other = card(tmp_path, "name: z\nmodel_family: llama\ncheckpoint: w\n", "z").rename(tmp_path / "z.yml")
    for given in (path, str(path), "x.yaml", other, "z.yml"):
        assert retrieve_asset_card(given).checkpoint == tmp_path / "w"
        assert find_card(given).name == Path(given).stem
    with pytest.raises(CardError, match="cannot be read"):
        find_card("y.yaml")
    with pytest.raises(CardError, match=r"Those end in \.yaml or \.yml"):
        retrieve_asset_card(tmp_path)


def test_a_card_made_by_hand_is_as_good_as_one_that_was_read(tmp_path: Path) -> None:
    made = AssetCard("x", "llama", source=tmp_path, model_config={"num_layers": 2}, checkpoint=tmp_path / "w")
    other = msgspec.structs.replace(made, model_arch="7b")
    assert (other.checkpoint, other.tokenizer, other.model_arch) == (tmp_path / "w", None, "7b")
    assert str(made.checkpoint_place and made.checkpoint_place.uri) == str(tmp_path / "w")
    assert (made.tokenizer_place, made.file_of("model_config")) == (None, tmp_path)


def test_a_family_that_is_not_known_hinders_only_who_uses_the_card(tmp_path: Path) -> None:
    path = card(tmp_path, "name: x\nmodel_family: lama\ncheckpoint: w\n")
    assert retrieve_asset_card(path).model_family == "lama"
    for use in (find_card, load_model, lambda path: load_model(read_card(path))):
        with pytest.raises(CardError) as error:
            use(path)
        assert error.value.summary == f"{path}: the `model_family` 'lama' is not known."
        assert error.value.hint == "Did you mean 'llama'?"


def test_finding_a_card_imports_no_family(tmp_path: Path) -> None:
    path = card(tmp_path, "name: x\nmodel_family: llama\n")
    code = f"import sys; from kinfold.loader import find_card; find_card({str(path)!r}); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "kinfold_zoo.registry" in modules
    assert "kinfold_zoo.llama" not in modules


def test_an_unknown_arch_and_unknown_fields_come_at_once(tmp_path: Path) -> None:
    path = card(tmp_path, "name: x\nmodel_family: llama\nmodel_arch: 7bb\nmodel_config: {num_layer: 2, norm_eps: a}\n")
    with pytest.raises(RegistryError) as error:
        load_model.get("llama").config_loader(read_card(path))
    assert error.value.summary.startswith(f"There is no arch '7bb', which {path} names. Did you mean '7b'")
    assert "Did you mean 'num_layers'" in error.value.faults[0]
    assert error.value.faults[1].startswith("`model_config.norm_eps`: Expected")


def test_the_card_in_the_documentation_has_every_key(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "cards.md").read_text().split("```yaml\n")[1].split("```")[0]
    said = read_card_file(card(tmp_path, text, "smollm2-tuned"))
    assert all(msgspec.structs.asdict(said).values())
    assert [line.partition(":")[0] for line in text.splitlines()] == list(msgspec.structs.asdict(said))

"""`scaffold cards` and `scaffold show`: everything is listed, whatever is broken, and nothing is fetched."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from transformers import LlamaConfig, LlamaForCausalLM

from kinfold.scaffold.cli.columns import columns
from kinfold.scaffold.cli.main import scaffold
from kinfold.scaffold.project import Project

WriteCard = Callable[..., Path]
SIZES = {
    "model_dim": 64, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "ffn_inner_dim": 96,
    "ffn_inner_dim_to_multiple": 1, "vocab_size": 256, "max_seq_len": 128,
}  # fmt: skip
PUBLISHED = {"model_dim": 4096, "num_layers": 32, "num_heads": 32, "num_kv_heads": 32, "vocab_size": 32000}
"""Of Llama 7B (Touvron et al. 2023, table 2)."""


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteCard:
    """Writes a card into the only folder of cards besides that of the zoo, outside any project."""
    folder = tmp_path / "config" / "kinfold" / "cards"
    folder.mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("KINFOLD_CARDS", raising=False)
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str, folder: Path = folder) -> Path:
        path = folder / f"{name}.yaml"
        path.write_text(f"name: {name}\n{text}\n")
        return path

    return write


def run(*arguments: str | Path, status: int = 0) -> str:
    result = CliRunner().invoke(scaffold, [*map(str, arguments)])
    if status == 0:
        assert result.exit_code == 0, result.output
        return result.stdout
    assert result.exception is not None
    return str(result.exception)


def test_every_card_is_listed_with_its_file(card: WriteCard) -> None:
    a = card("a", "model_family: llama\nmodel_arch: 7b\ncheckpoint: hf://o/r@v1")
    b = card("b", "base: a\nmodel_arch: 13b\ncheckpoint: weights")
    lines = [line.split() for line in run("cards").splitlines()]
    assert lines[0] == ["NAME", "FAMILY", "ARCH", "CHECKPOINT", "FILE"]
    assert lines[1:3] == [
        ["a", "llama", "7b", "hf://o/r@v1", str(a)],
        ["b", "llama", "13b", str(b.parent / "weights"), str(b)],
    ]
    assert [line[:4] for line in lines if line[0] == "llama"] == [["llama", "llama", "7b", "-"]]


def test_a_broken_card_hides_no_other(card: WriteCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KINFOLD_CARDS", str(tmp_path))
    broken = {
        card("b1", "model_famly: llama"): "did you mean `model_family`?",
        card("b2", "base: lama"): "Did you mean 'llama'?",
        card("b3", "model_family: lama"): "The family 'lama' is not known. Did you mean 'llama'?",
        card("b4", "base: b4"): "go in a circle",
        card("b5", "model_family: [", tmp_path): "is not valid YAML",
        card("c", "model_family: llama"): "There are 2 cards of that name",
        card("c", "model_family: llama", tmp_path): "There are 2 cards of that name",
    }
    whole = card("d", "model_family: llama")
    listed = {Path(one["file"]): one["fault"] for one in json.loads(run("cards", "--json"))}
    assert set(listed) >= {*broken, whole}
    for path, said in broken.items():
        assert said in listed[path]
    assert listed[whole] is None
    text = run("cards")
    assert "b3 is broken: The family 'lama' is not known." in text
    assert text.count("  broken  ") == len(broken)
    assert "Did you mean 'llama'?" in run("show", "b3", status=1)


def test_cards_are_filtered_by_a_word(card: WriteCard) -> None:
    card("Tiny", "model_family: llama\ncheckpoint: hf://owner/repo")
    card("x", "model_family: llama")
    assert [one["name"] for one in json.loads(run("cards", "tiNY", "--json"))] == ["Tiny"]
    assert [one["name"] for one in json.loads(run("cards", "OWNER", "--json"))] == ["Tiny"]
    result = CliRunner().invoke(scaffold, ["cards", "nothing has this"])
    assert (result.exit_code, result.stdout) == (0, "")
    assert "No card has 'nothing has this' in it." in result.stderr


def test_listing_cards_imports_nothing_heavy_and_asks_nobody(card: WriteCard) -> None:
    card("x", "model_family: llama\ncheckpoint: hf://o/r")
    code = (
        "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr));"
        "sys.argv = ['scaffold', 'cards']; from kinfold.scaffold.cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(done.stderr.splitlines()[-1].split())
    assert "kinfold.assets.hub" in modules
    assert modules & {"torch", "huggingface_hub", "copier", "libcst", "kinfold_zoo.llama"} == set()


def test_all_of_a_card_is_shown(card: WriteCard, tmp_path: Path) -> None:
    base = card("base", f"model_family: llama\nmodel_arch: 7b\nmodel_config: {json.dumps(SIZES)}\ncheckpoint: w")
    path = card("x", "base: base\nmodel_config: {num_layers: 2}\ntokenizer: hf://o/r")
    shown = json.loads(run("show", "x", "--json"))
    assert (shown["name"], shown["family"], shown["arch"]) == ("x", "llama", "7b")
    assert shown["files"] == [str(path), str(base)]
    assert shown["values"]["model_config.num_layers"] == {"value": 2, "file": str(path)}
    assert shown["values"]["model_config.num_heads"] == {"value": 4, "file": str(base)}
    assert shown["values"]["checkpoint"] == {"value": "w", "file": str(base)}
    assert shown["checkpoint"] == {"uri": str(base.parent / "w"), "here": None}
    assert shown["tokenizer"] == {"uri": "hf://o/r", "here": None}
    assert {key: shown["config"][key] for key in SIZES} == {**SIZES, "num_layers": 2}
    assert {key: shown["of_arch"][key] for key in PUBLISHED} == PUBLISHED
    assert "init_std" not in shown["of_arch"]
    peer = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
            intermediate_size=96, vocab_size=256,
        )
    )  # fmt: skip
    assert shown["parameters"] == peer.num_parameters()
    (base.parent / "w").mkdir()
    assert json.loads(run("show", path, "--json"))["checkpoint"]["here"] == str(base.parent / "w")


def test_what_is_shown_is_aligned_and_says_what_is_not_here(card: WriteCard) -> None:
    path = card("x", "model_family: llama\nmodel_config: {num_layers: 2}\ncheckpoint: hf://o/r")
    lines = run("show", "x").splitlines()
    assert f"  model_config.num_layers  2         {path}" in lines
    assert f"  model_family             llama     {path}" in lines
    assert "  checkpoint  hf://o/r (not on this machine)" in lines
    assert "Config of the family llama, arch 7b; * where the card differs:" in lines
    assert [line.split() for line in lines if line.startswith("  *")] == [
        ["*", "num_layers", "2", "32", "in", "the", "arch"]
    ]


def test_columns() -> None:
    assert columns([["a", "bb"], ["", "c"], ["ddd", ""]], indent=" ") == " a    bb\n -    c\n ddd  -"


def test_a_project_without_families_has_cards_too(project: Project) -> None:
    card = project.root / project.cards / "mine.yaml"
    card.write_text("name: mine\nmodel_family: llama\nmodel_arch: 13b\n")
    listed = CliRunner().invoke(scaffold, ["cards", "mine"])
    assert "13b" in listed.output
    assert CliRunner().invoke(scaffold, ["show", "mine"]).exit_code == 0

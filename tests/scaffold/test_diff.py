"""`scaffold diff`: how two architectures differ, in a few lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from kinfold.errors import KinfoldError
from kinfold.scaffold.cli.main import scaffold
from kinfold.scaffold.project import Project


def diff(*arguments: str) -> str:
    """What the command prints; an error goes through."""
    result = CliRunner().invoke(scaffold, ["diff", *arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_two_families_by_their_archs() -> None:
    assert diff("llama:llama3_8b", "mistral").splitlines() == [
        "llama:llama3_8b -> mistral:7b",
        "~ vocab_size 128256 -> 32000",
        "~ max_seq_len 8192 -> 32768",
        "~ rope_theta 500000 -> 10000",
        "+ sliding_window 4096",
    ]


def test_the_other_way_round_what_came_goes() -> None:
    there, back = (
        json.loads(diff(*names, "--json"))["differences"] for names in (("llama", "nllb"), ("nllb", "llama"))
    )
    assert {row["what"]: row["kind"] for row in back} == {
        row["what"]: {"+": "-", "-": "+", "~": "~"}[row["kind"]] for row in there
    }
    assert "+ biases of q, k and v" in diff("llama", "nllb").splitlines()


def test_two_checkpoints(tiny_checkpoint: Callable[..., Path]) -> None:
    llama, qwen3 = str(tiny_checkpoint("llama")), str(tiny_checkpoint("qwen3", tie_word_embeddings=True))
    said = diff(llama, qwen3).splitlines()
    assert "+ q/k norms per head (RMS)" in said
    assert "+ tied embeddings" in said
    assert "- q/k norms per head (RMS)" in diff(qwen3, llama).splitlines()


def test_a_card_and_the_spec_that_says_the_same(project: Project) -> None:
    Path("spec.yaml").write_text("archs: {a: {model_dim: 64, num_heads: 4, rope_theta: 1000000.0}}")
    assert CliRunner().invoke(scaffold, ["new-family", "x", "--spec", "spec.yaml"]).exit_code == 0
    assert diff("x", "spec.yaml").splitlines() == ["x:a -> spec.yaml:a", "No difference."]
    Path("mine.yaml").write_text("name: mine\nmodel_family: x\nmodel_config: {rope_theta: 5e6, ffn_inner_dim: 100}\n")
    assert diff("x", "mine.yaml").splitlines()[1:] == [
        "~ ffn_inner_dim 8192 -> 100",
        "~ rope_theta 1000000 -> 5000000",
    ]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mistrall", "Did you mean 'mistral'"),
        ("llama:7bb", "Did you mean '7b'"),
        ("nowhere/spec.yaml", "cannot be read"),
    ],
)
def test_what_is_not_there_is_said_with_what_is_near(name: str, said: str) -> None:
    with pytest.raises(KinfoldError, match=said):
        diff("llama", name)

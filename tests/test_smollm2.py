"""SmolLM2-135M from its GGUF, against transformers reading the same file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from packaged import smollm2
from transformers import AutoModelForCausalLM, AutoTokenizer

from kinfold import generate, load_model, load_tokenizer
from kinfold.scaffold.cli.main import scaffold
from kinfold.scaffold.project import Project

PROMPTS = ("The capital of France is", "def fibonacci(n):", "1, 2, 3, 4,")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def gguf() -> Path:
    return smollm2()


def test_one_command_makes_a_family_that_computes_what_transformers_computes(project: Project, gguf: Path) -> None:
    made = CliRunner().invoke(scaffold, ["new-family", "smollm2", "--from", str(gguf)])
    assert made.exit_code == 0, made.output
    assert "num_kv_heads = 3  <- blk.0.attn_k.weight (192, 576), head_dim 64" in made.output
    project.activate()
    model, tokenizer = load_model("smollm2"), load_tokenizer(gguf)
    options = {"gguf_file": gguf.name, "local_files_only": True}
    peer: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **options).eval()
    peer_tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **options)

    for prompt in PROMPTS:
        token_ids = torch.tensor([tokenizer.encode(prompt)])
        assert token_ids.tolist() == peer_tokenizer(prompt, return_tensors="pt").input_ids.tolist()
        with torch.inference_mode():
            ours, theirs = model(token_ids), peer(token_ids).logits
            expected = peer.generate(token_ids, max_new_tokens=20, do_sample=False, eos_token_id=None)
        assert (ours - theirs).abs().max() <= 1e-3 * theirs.abs().max()
        assert torch.equal(generate(model, token_ids, max_new_tokens=20), expected)


def test_it_says_paris(project: Project, gguf: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(scaffold, ["new-family", "smollm2", "--from", str(gguf)]).exit_code == 0
    said = runner.invoke(scaffold, ["generate", "smollm2", PROMPTS[0], "--max-new-tokens", "8"])
    assert said.output.startswith("The capital of France is Paris.")

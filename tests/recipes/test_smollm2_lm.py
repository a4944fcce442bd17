"""SmolLM2-135M fine-tuned from its GGUF by the recipe `lm`, against transformers reading what came out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from packaged import smollm2
from transformers import AutoModelForCausalLM, AutoTokenizer
from verses import TEXT, assert_same_run, call, losses

from kinfold.recipes.lm import LmUnit
from kinfold.scaffold.project import Project

pytestmark = pytest.mark.slow

PROMPT = "the hare went up the"


@pytest.fixture(scope="module")
def gguf() -> Path:
    return smollm2()


def test_it_learns_a_text_goes_on_where_it_crashed_and_transformers_says_the_same(
    project: Project, gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "verses.txt").write_text(TEXT)
    call("new-family", "smollm2", "--from", gguf)
    options = ["train", "lm", "--model", "smollm2", "--data", tmp_path / "verses.txt", "--max-seq-len", 128]
    options += ["--batch-size", 2, "--max-num-steps", 8, "--lr", "1e-4", "--valid-share", 0.2]
    options += ["--publish-metrics-every-n-steps", 1]
    call(*options)
    run = project.root / "runs" / "smollm2-lm"
    assert losses(run)[-1] < 0.5 * losses(run)[0]

    def crash(self: LmUnit, step_nr: int) -> None:
        if step_nr == 5:
            raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(LmUnit, "set_step_nr", crash)
        with pytest.raises(MemoryError):
            call(*options, "--name", "crashed", "--checkpoint-every-n-steps", 3)
    assert "Going on from" in call(*options, "--name", "crashed")
    assert_same_run(project.root / "runs" / "crashed", run)

    said = call("generate", "smollm2-lm", PROMPT, "--max-new-tokens", 16)
    call("convert", "smollm2-lm", tmp_path / "hf", "--to", "hf")
    peer: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    inputs = tokenizer(PROMPT, return_tensors="pt")
    with torch.inference_mode():
        theirs = peer.generate(**inputs, max_new_tokens=16, do_sample=False)
    assert tokenizer.decode(theirs[0], skip_special_tokens=True) == said.removesuffix("\n")
    assert said.startswith(f"{PROMPT} hill to see")

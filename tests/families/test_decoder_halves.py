"""The decoder of an encoder and decoder by itself: with what an encoder gave, and without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from click.testing import CliRunner
from safetensors.torch import load_file
from zoo.make import build

from kinfold import load_model
from kinfold.nn import DecodeState, EncoderOutput
from kinfold.scaffold.cli.main import scaffold
from kinfold.scaffold.project import Project


@pytest.mark.parametrize("kind", ["bart", "mbart", "whisper"])
def test_it_looks_at_an_encoders_output_as_in_transformers(project: Project, tmp_path: Path, kind: str) -> None:
    assert build(kind, tmp_path)
    CliRunner().invoke(scaffold, ["new-family", "x", "--from", str(tmp_path / kind)], catch_exceptions=False)
    project.activate()
    model: Any = load_model("x", dtype=torch.float64)
    peer: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / kind, attn_implementation="eager")
    token_ids = load_file(tmp_path / kind / "reference.safetensors")["token_ids"]
    vectors = torch.randn(2, 7, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        given = {"encoder_outputs": (vectors,)} if kind == "whisper" else {"encoder_hidden_states": vectors}
        expected = peer.double().eval()(input_ids=token_ids, use_cache=False, **given).logits
        encoded = EncoderOutput(vectors)
        logits = model(token_ids, encoder_output=encoded)
        state = DecodeState(capacity=24)
        cached = [model(part, state=state, encoder_output=encoded) for part in token_ids.split((9, 1, 14), dim=1)]
        assert (logits - expected).abs().max() <= 1e-9 * expected.abs().max()
        assert (torch.cat(cached, dim=1) - expected).abs().max() <= 1e-9 * expected.abs().max()
        assert (model(token_ids) - expected).abs().max() > 0.01 * expected.abs().max()

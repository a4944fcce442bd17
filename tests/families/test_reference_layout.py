"""Llama and Mistral in the layout of their authors, against the model of the papers written out, and transformers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor
from torch.nn.functional import embedding, linear, silu
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from kinfold import AssetCard, convert_checkpoint, load_model
from kinfold.scaffold.cli.main import scaffold
from kinfold.scaffold.project import Project
from kinfold.scaffold.prove.verify import verify

SIZES: dict[str, Any] = {
    "model_dim": 64, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "ffn_inner_dim": 96,
    "vocab_size": 256, "max_seq_len": 128,
}  # fmt: skip
EPS, THETA, WINDOW = 1e-5, 10000.0, 7

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {**SIZES, "ffn_inner_dim_to_multiple": 1, "norm_eps": EPS},
    "mistral": {**SIZES, "sliding_window": WINDOW, "norm_eps": EPS},
}


def checkpoint(path: Path, *, tied: bool = False) -> dict[str, Tensor]:
    """A random checkpoint as the authors write them: one pickle, and the frequencies in it."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "tok_embeddings.weight": (256, 64), "norm.weight": (64,), "output.weight": (256, 64),
        **{f"layers.{n}.attention.w{x}.weight": (64, 64) for n in range(3) for x in "qo"},
        **{f"layers.{n}.attention.w{x}.weight": (32, 64) for n in range(3) for x in "kv"},
        **{f"layers.{n}.feed_forward.w{x}.weight": (96, 64) for n in range(3) for x in (1, 3)},
        **{f"layers.{n}.feed_forward.w2.weight": (64, 96) for n in range(3)},
        **{f"layers.{n}.{x}_norm.weight": (64,) for n in range(3) for x in ("attention", "ffn")},
    }  # fmt: skip
    tensors = {
        name: torch.randn(shape, generator=generator) * 0.1 + (1 if len(shape) == 1 else 0)
        for name, shape in shapes.items()
    }
    if tied:
        tensors["output.weight"] = tensors["tok_embeddings.weight"]
    torch.save({**tensors, "rope.freqs": THETA ** -(torch.arange(0, 16, 2) / 16)}, path)
    return tensors


def written_out(tensors: dict[str, Tensor], token_ids: Tensor, *, window: int | None) -> Tensor:
    """The decoder of Touvron et al. 2023, section 2.2: neighbouring dimensions turn together, as complex numbers."""
    weights = {name: tensor.double() for name, tensor in tensors.items()}
    seq_len = token_ids.shape[1]

    def norm(x: Tensor, name: str) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * weights[f"{name}.weight"]

    def turned(x: Tensor) -> Tensor:  # (B, S, H, 16)
        angles = torch.outer(torch.arange(seq_len).double(), THETA ** -(torch.arange(0, 16, 2).double() / 16))
        turns = torch.polar(torch.ones_like(angles), angles)[:, None]
        return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (8, 2)).contiguous()) * turns).flatten(-2)

    distances = torch.arange(seq_len)[:, None] - torch.arange(seq_len)
    sees = (distances >= 0) & (distances < (window or seq_len))
    x = embedding(token_ids, weights["tok_embeddings.weight"])
    for n in range(3):
        read = norm(x, f"layers.{n}.attention_norm")
        q, k, v = (
            linear(read, weights[f"layers.{n}.attention.w{name}.weight"]).unflatten(-1, (-1, 16)) for name in "qkv"
        )
        q, k, v = turned(q), turned(k).repeat_interleave(2, dim=2), v.repeat_interleave(2, dim=2)
        scores = torch.einsum("bshd,bthd->bhst", q, k) / math.sqrt(16)
        scores = scores.masked_fill(~sees, -math.inf).softmax(-1)
        attended = torch.einsum("bhst,bthd->bshd", scores, v).flatten(2)
        x = x + linear(attended, weights[f"layers.{n}.attention.wo.weight"])
        read = norm(x, f"layers.{n}.ffn_norm")
        w1, w2, w3 = (weights[f"layers.{n}.feed_forward.w{number}.weight"] for number in (1, 2, 3))
        x = x + linear(silu(linear(read, w1)) * linear(read, w3), w2)
    return linear(norm(x, "norm"), weights["output.weight"])


@pytest.fixture
def token_ids() -> Tensor:
    return torch.randint(256, (2, 20), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("family", "tied"), [("llama", False), ("llama", True), ("mistral", False)])
def test_the_logits_are_those_of_the_papers(family: str, tied: bool, token_ids: Tensor, tmp_path: Path) -> None:
    tensors = checkpoint(tmp_path / "consolidated.00.pth", tied=tied)
    config = {**FAMILIES[family], **({"tied_embeddings": True} if tied else {})}
    card = AssetCard("tiny", family, Path("none"), model_config=config, checkpoint=tmp_path / "consolidated.00.pth")
    logits = load_model(card, dtype=torch.float64)(token_ids)
    expected = written_out(tensors, token_ids, window=config.get("sliding_window"))
    assert (logits - expected).abs().max() <= 1e-6 * expected.abs().max()
    proof = verify(card)
    assert proof.holds, str(proof)
    assert "key map reference" in proof.checks[0].detail

    again = convert_checkpoint(card, tmp_path / "again", to="reference", config=False).path
    written = load_model.get(family).prepare(
        AssetCard("x", family, Path("none"), model_config=config, checkpoint=again)
    )
    with written.checkpoint as stored:
        assert stored.manifest.keys() == tensors.keys()
        assert all(torch.equal(stored.tensor(name), tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_computes_the_same_from_what_is_exported(family: str, token_ids: Tensor, tmp_path: Path) -> None:
    checkpoint(tmp_path / "consolidated.00.pth")
    config = FAMILIES[family]
    card = AssetCard("tiny", family, Path("none"), model_config=config, checkpoint=tmp_path / "consolidated.00.pth")
    hf = convert_checkpoint(card, tmp_path / "hf", to="hf").path
    peer = AutoModelForCausalLM.from_pretrained(hf, attn_implementation="eager").double().eval()
    assert type(peer.config) is CONFIG_MAPPING[family]
    theirs = peer(input_ids=token_ids, use_cache=False).logits
    assert (load_model(card, dtype=torch.float64)(token_ids) - theirs).abs().max() <= 1e-6 * theirs.abs().max()


PARAMS: dict[str, dict[str, Any]] = {
    "as Llama's": {"vocab_size": -1, "multiple_of": 32, "ffn_dim_multiplier": 1.3},
    "as Llama 3.2's, which is tied": {"vocab_size": 256, "rope_theta": THETA, "use_scaled_rope": False},
    "as Mistral's": {"vocab_size": 256, "head_dim": 16, "hidden_dim": 96, "sliding_window": WINDOW},
}
"""What params.json says besides what all say."""


@pytest.mark.parametrize("params", PARAMS)
def test_a_family_is_made_of_the_authors_own_folder(
    params: str, token_ids: Tensor, project: Project, tmp_path: Path
) -> None:
    folder = tmp_path / "original"
    folder.mkdir()
    tensors = checkpoint(folder / "consolidated.00.pth", tied="tied" in params)
    said = {"dim": 64, "n_layers": 3, "n_heads": 4, "n_kv_heads": 2, "norm_eps": EPS, **PARAMS[params]}
    (folder / "params.json").write_text(json.dumps(said))
    made = CliRunner().invoke(scaffold, ["new-family", "mine", "--from", str(folder)])
    assert made.exit_code == 0, made.output
    assert "rotary_pairs = interleaved  <- its names are those of Meta's and Mistral's reference code" in made.output
    project.activate()
    logits = load_model("mine", dtype=torch.float64)(token_ids)
    expected = written_out(tensors, token_ids, window=said.get("sliding_window"))
    assert (logits - expected).abs().max() <= 1e-6 * expected.abs().max()
    proved = CliRunner().invoke(scaffold, ["verify", "mine"])
    assert proved.exit_code == 0, proved.output


def test_positions_that_are_stretched_in_a_way_that_params_do_not_say_are_refused(
    project: Project, tmp_path: Path
) -> None:
    checkpoint(tmp_path / "consolidated.00.pth")
    said = {"dim": 64, "n_heads": 4, "norm_eps": EPS, "use_scaled_rope": True}
    (tmp_path / "params.json").write_text(json.dumps(said))
    refused = CliRunner().invoke(scaffold, ["new-family", "mine", "--from", str(tmp_path)])
    assert "config key use_scaled_rope = True: not understood" in str(refused.exception)


def test_an_output_projection_that_is_not_the_embedding_does_not_pass_for_it(tmp_path: Path) -> None:
    checkpoint(tmp_path / "consolidated.00.pth")
    config = {**FAMILIES["llama"], "tied_embeddings": True}
    card = AssetCard("tiny", "llama", Path("none"), model_config=config, checkpoint=tmp_path / "consolidated.00.pth")
    with pytest.raises(Exception, match=r"output\.weight should repeat tok_embeddings\.weight, but differs"):
        load_model(card)

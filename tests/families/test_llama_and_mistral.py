"""Llama and Mistral against checkpoints that transformers wrote, and what GGUF files of Llama 3.1 hold besides."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from tiny import write_checkpoint

from kinfold import AssetCard, create_model
from kinfold.checkpoint.manifest import TensorInfo
from kinfold.keymap import certify
from kinfold.loader import model_manifest
from kinfold.scaffold.prove.verify import verify
from kinfold_zoo.llama import create_llama_model, llama_archs
from kinfold_zoo.llama.loader import gguf_key_map

SIZES: dict[str, Any] = {
    "model_dim": 64, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "ffn_inner_dim": 96,
    "vocab_size": 256, "max_seq_len": 128, "norm_eps": 1e-6,
}  # fmt: skip
LLAMA = {**SIZES, "ffn_inner_dim_to_multiple": 1}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "rope_theta": 10000.0}  # fmt: skip

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("llama", LLAMA, {}),
    "llama, tied": ("llama", {**LLAMA, "tied_embeddings": True}, {"tie_word_embeddings": True}),
    "llama, stretched": (
        "llama",
        {**LLAMA, "rope_scaling": {"factor": 8.0, "original_max_seq_len": 8}},
        {"rope_parameters": LLAMA3},
    ),
    "mistral": ("mistral", {**SIZES, "sliding_window": 16}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_everything_is_proved(case: str, tmp_path: Path) -> None:
    family, config, theirs = CASES[case]
    checkpoint = write_checkpoint(tmp_path / "tiny", family, rms_norm_eps=1e-6, **theirs)
    card = AssetCard("tiny", family, source=Path("none"), model_config=config, checkpoint=checkpoint)
    proof = verify(card, reference_file=checkpoint / "reference.safetensors", tolerance=1e-6)
    assert proof.holds, str(proof)
    assert len(proof.checks) == 4


def test_a_gguf_file_with_frequencies_is_one_of_an_arch_that_stretches_positions() -> None:
    config = llama_archs.get("llama3_1_8b")
    target = model_manifest(create_model("llama", "llama3_1_8b", device="meta"))
    source = gguf_key_map.bind(config).source_manifest(target)
    with_frequencies = {**source, "rope_freqs.weight": TensorInfo((64,), "float32", "float32")}
    assert certify(gguf_key_map.bind(config), with_frequencies, target).holds
    plain = dataclasses.replace(config, rope_scaling=None)
    assert model_manifest(create_llama_model(plain, device="meta")) == target
    assert certify(gguf_key_map.bind(plain), source, target).holds
    assert certify(gguf_key_map.bind(plain), with_frequencies, target).faults == (
        "rope_freqs.weight (64,) is taken by no rule",
    )

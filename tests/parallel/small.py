"""Sizes of the small models in the tests of several ranks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import fused

from kinfold import AssetCard

LLAMA = {
    "model_dim": 64, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "ffn_inner_dim": 96,
    "ffn_inner_dim_to_multiple": 1, "vocab_size": 256, "max_seq_len": 128, "norm_eps": 1e-6,
}  # fmt: skip
NLLB = {
    "model_dim": 64, "num_encoder_layers": 3, "num_decoder_layers": 2, "num_encoder_heads": 4, "num_decoder_heads": 8,
    "ffn_inner_dim": 96, "vocab_size": 256, "max_seq_len": 128,
}  # fmt: skip
FUSED = fused.config_of(
    model_dim=32, num_layers=2, num_heads=8, num_kv_heads=4, head_dim=8, ffn_inner_dim=48, vocab_size=64
)


def card_of(family: str, checkpoint: Path, config: Mapping[str, object]) -> AssetCard:
    """The card of a checkpoint of a family, with the sizes of its config."""
    arch = "7b" if family == "llama" else None
    return AssetCard("tiny", family, source=Path("none"), model_arch=arch, model_config=config, checkpoint=checkpoint)

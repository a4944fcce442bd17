"""What tests of several ranks share: tiny models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import fused
import pytest
import torch
from ranks_loading import Case
from small import FUSED, LLAMA, NLLB, card_of


@pytest.fixture(scope="session")
def cases(tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """Models with few key-value heads, with tied embeddings, fused on disk, of encoder and decoder."""
    tokens = torch.arange(3, 19)[None]
    tied = {"tied_embeddings": True}
    fused_card = fused.write_checkpoint(tmp_path_factory.mktemp("fused") / "checkpoint", FUSED)
    return {
        "llama": (card_of("llama", tiny_checkpoint("llama", rms_norm_eps=1e-6), LLAMA), None, (tokens,)),
        "tied": (
            card_of("llama", tiny_checkpoint("llama", tie_word_embeddings=True), {**LLAMA, **tied}),
            None,
            (tokens,),
        ),
        "fused": (fused_card, FUSED, (tokens,)),
        "nllb": (card_of("nllb", tiny_checkpoint("m2m_100", pad_token_id=1), NLLB), None, (tokens, tokens + 1)),
    }

"""A small Llama of the zoo, and the same in transformers; what comparisons in float64 leave out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig as PeerConfig
from transformers import LlamaForCausalLM

from kinfold_zoo.llama import LlamaConfig, LlamaModel, create_llama_model
from kinfold_zoo.llama.loader import convert_llama_checkpoint

SIZES: dict[str, Any] = {
    "model_dim": 48,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 12,
    "ffn_inner_dim": 80,
    "ffn_inner_dim_to_multiple": 1,
    "vocab_size": 64,
    "max_seq_len": 64,
}


@pytest.fixture
def config() -> LlamaConfig:
    return LlamaConfig(**SIZES, init_std=0.2)


@pytest.fixture
def model(config: LlamaConfig) -> LlamaModel:
    """In float64, with norms that are not all ones."""
    torch.manual_seed(0)
    model = create_llama_model(config, dtype=torch.float64)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model.eval()


@pytest.fixture
def peer(config: LlamaConfig, model: LlamaModel) -> LlamaForCausalLM:
    """The same weights in transformers."""
    peer = LlamaForCausalLM(
        PeerConfig(
            hidden_size=config.model_dim,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            intermediate_size=config.ffn_inner_dim,
            vocab_size=config.vocab_size,
            rms_norm_eps=config.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            attn_implementation="eager",  # pyright: ignore
        )
    ).double()
    peer.load_state_dict(convert_llama_checkpoint.export(model.state_dict(), config, layout="hf"))
    return peer.eval()


@pytest.fixture
def token_ids() -> torch.Tensor:
    return torch.randint(64, (2, 11), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def exact_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of transformers' attentions rounds to float32, which a comparison in float64 has to leave out."""
    softmax = torch.nn.functional.softmax
    monkeypatch.setattr(torch.nn.functional, "softmax", lambda x, dim, dtype=None: softmax(x, dim))

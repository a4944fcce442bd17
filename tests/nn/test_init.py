"""Models are put together without storage, then get it, and their first weights."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from kinfold.nn import (
    XIELU,
    HeadBias,
    LayerNorm,
    LearnedScale,
    RMSNorm,
    Sinks,
    TiedProjection,
    materialize,
    without_storage,
)
from kinfold_zoo.llama import LlamaConfig, create_llama_model


def small() -> nn.Module:
    with without_storage():
        return nn.Sequential(nn.Embedding(500, 64), nn.Linear(64, 64), RMSNorm(64), nn.LayerNorm(64))


def test_without_storage_there_is_none() -> None:
    assert all(parameter.is_meta for parameter in small().parameters())
    assert not nn.Linear(2, 2).weight.is_meta


def test_fresh_weights() -> None:
    torch.manual_seed(0)
    embed, linear, *norms = materialize(small(), init_std=0.5).children()
    for module in (embed, linear):
        weight = module.get_parameter("weight")
        assert weight.std().item() == pytest.approx(0.5, rel=0.05)
        assert weight.mean().item() == pytest.approx(0, abs=0.03)
    assert not linear.get_parameter("bias").any()
    for norm in norms:
        assert torch.equal(norm.get_parameter("weight"), torch.ones(64))
    assert not norms[1].get_parameter("bias").any()


def test_the_seed_decides() -> None:
    weights = []
    for _ in range(2):
        torch.manual_seed(7)
        weights.append(materialize(small()).get_parameter("0.weight"))
    assert torch.equal(*weights)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, None])
def test_dtype_and_device(dtype: torch.dtype | None) -> None:
    assert {p.dtype for p in materialize(small(), dtype=dtype).parameters()} == {dtype or torch.float32}
    on_meta = materialize(small(), device="meta", dtype=dtype)
    assert all(p.is_meta and p.dtype == (dtype or torch.float32) for p in on_meta.parameters())
    with torch.device("meta"):
        assert all(p.is_meta for p in materialize(small()).parameters())


PARTS = {
    "RMSNorm": lambda: RMSNorm(8, offset=1.0),
    "LayerNorm": lambda: LayerNorm(8, heads=2),
    "XIELU": XIELU,
    "Sinks": lambda: Sinks(4),
    "HeadBias": lambda: HeadBias(4),
    "LearnedScale": lambda: LearnedScale(8),
    "TiedProjection": lambda: TiedProjection(nn.Embedding(5, 4), bias=True),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_gets_storage_is_as_one_that_had_it(part: str) -> None:
    with without_storage():
        late = PARTS[part]()
    for parameter in materialize(late, dtype=torch.float64).parameters():
        parameter.data.fill_(torch.nan)  # whatever was in the memory
    materialize(late, dtype=torch.float64)
    assert not list(late.buffers())
    early = PARTS[part]().double().state_dict()
    for name, tensor in late.state_dict().items():
        torch.testing.assert_close(tensor, early[name])
    assert late.state_dict().keys() == early.keys()


@pytest.fixture
def tied() -> nn.Module:
    sizes: dict[str, Any] = {
        "model_dim": 16,
        "num_layers": 1,
        "num_heads": 2,
        "num_kv_heads": 1,
        "head_dim": 8,
        "ffn_inner_dim": 8,
        "ffn_inner_dim_to_multiple": 1,
    }
    return create_llama_model(LlamaConfig(**sizes, vocab_size=12, tied_embeddings=True))


CHANGES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "to another dtype": lambda model: model.to(torch.float64),
    "to empty storage": lambda model: model.to("meta").to_empty(device="cpu"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_tied_embeddings_stay_tied(tied: nn.Module, change: str) -> None:
    model = CHANGES[change](tied)
    assert not [name for name in model.state_dict() if name.startswith("final_proj")]
    weight = model.get_parameter("decoder_frontend.embed.weight")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
        weight.zero_()
        assert not model(torch.zeros(1, 2, dtype=torch.int64)).any()
    assert isinstance(model.get_submodule("final_proj"), TiedProjection)
    model(torch.zeros(1, 2, dtype=torch.int64)).sum().backward()
    assert weight.grad is not None

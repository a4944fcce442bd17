"""Llama: archs, training, cached decoding, key maps and shards, made small."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from kinfold import generate
from kinfold.parallel import joined_shards
from torch.nn.functional import cross_entropy

from kinfold_zoo.llama import LlamaConfig, create_llama_model, llama_archs, shard_llama_model
from kinfold_zoo.llama.loader import convert_llama_checkpoint


@pytest.fixture
def config() -> LlamaConfig:
    """The default arch, made small."""
    return dataclasses.replace(
        llama_archs.get(),
        model_dim=64,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        ffn_inner_dim=96,
        vocab_size=128,
        unk_idx=None,
        bos_idx=None,
        eos_idx=None,
        max_seq_len=64,
    )


@pytest.mark.parametrize("arch", llama_archs.names())
def test_every_arch_fits_together(arch: str) -> None:
    config = llama_archs.get(arch)
    token_ids = torch.zeros(1, 2, dtype=torch.int64, device="meta")
    assert create_llama_model(config, device="meta")(token_ids).shape == (1, 2, config.vocab_size)


def test_training_lowers_the_loss(config: LlamaConfig) -> None:
    torch.manual_seed(0)
    model = create_llama_model(config)
    token_ids = torch.randint(config.vocab_size, (2, 17))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(5):
        loss = cross_entropy(model(token_ids[:, :-1]).flatten(0, 1), token_ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_cached_decoding_equals_uncached(config: LlamaConfig) -> None:
    torch.manual_seed(0)
    model = create_llama_model(config, dtype=torch.float64).eval()
    token_ids = torch.randint(config.vocab_size, (2, 7))
    generated = generate(model, token_ids, max_new_tokens=9)
    for _ in range(9):
        token_ids = torch.cat([token_ids, model(token_ids)[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(generated, token_ids)


def test_key_maps_lose_nothing(config: LlamaConfig) -> None:
    torch.manual_seed(0)
    state_dict = create_llama_model(config).state_dict()
    for layout in convert_llama_checkpoint.key_maps:
        foreign = convert_llama_checkpoint.export(state_dict, config, layout=layout)
        native = convert_llama_checkpoint.load(foreign, config, layout=layout)
        assert native.keys() == state_dict.keys()
        assert all(torch.equal(native[name], state_dict[name]) for name in state_dict)


def test_shards_lose_nothing(config: LlamaConfig) -> None:
    torch.manual_seed(0)
    model = create_llama_model(config)
    joined = joined_shards(model, lambda model, gangs: shard_llama_model(model, config, gangs), tp=2)
    whole = dict(model.named_parameters())
    assert joined.keys() == whole.keys()
    assert all(torch.equal(joined[name], whole[name]) for name in whole)

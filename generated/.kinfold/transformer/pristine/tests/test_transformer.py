"""Transformer: archs, training, padding, decoding, key maps and shards, made small."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch
from kinfold import generate
from kinfold.parallel import joined_shards
from torch.nn.functional import cross_entropy

from kinfold_zoo.transformer import (
    TransformerConfig,
    create_transformer_model,
    shard_transformer_model,
    transformer_archs,
)
from kinfold_zoo.transformer.loader import convert_transformer_checkpoint


@pytest.fixture
def config() -> TransformerConfig:
    """The default arch, made small."""
    return dataclasses.replace(
        transformer_archs.get(),
        model_dim=64,
        num_encoder_layers=2,
        num_decoder_layers=2,
        num_encoder_heads=4,
        num_decoder_heads=4,
        ffn_inner_dim=96,
        vocab_size=128,
        eos_idx=None,
        pad_idx=None,
        max_seq_len=64,
    )


@pytest.mark.parametrize("arch", transformer_archs.names())
def test_every_arch_fits_together(arch: str) -> None:
    config = transformer_archs.get(arch)
    source_ids, token_ids = (torch.zeros(1, length, dtype=torch.int64, device="meta") for length in (3, 2))
    assert create_transformer_model(config, device="meta")(source_ids, token_ids).shape == (1, 2, config.vocab_size)


def test_training_lowers_the_loss(config: TransformerConfig) -> None:
    torch.manual_seed(0)
    model = create_transformer_model(config).eval()
    source_ids, token_ids = (torch.randint(config.vocab_size, (2, length)) for length in (11, 9))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(5):
        logits = model(source_ids, token_ids[:, :-1])
        loss = cross_entropy(logits.flatten(0, 1), token_ids[:, 1:].flatten(), label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_padding_of_the_source_changes_nothing(config: TransformerConfig) -> None:
    torch.manual_seed(0)
    model = create_transformer_model(config, dtype=torch.float64).eval()
    source_ids, token_ids = (torch.randint(config.vocab_size, (1, length)) for length in (7, 5))
    padded = torch.cat([source_ids, torch.zeros(1, 3, dtype=torch.int64)], dim=1)
    mask = torch.arange(10)[None] < 7
    torch.testing.assert_close(model(padded, token_ids, mask), model(source_ids, token_ids))


def test_cached_decoding_equals_uncached(config: TransformerConfig) -> None:
    torch.manual_seed(0)
    model = create_transformer_model(config, dtype=torch.float64).eval()
    source_ids, token_ids = (torch.randint(config.vocab_size, (2, length)) for length in (7, 2))
    generated = generate(partial(model.decode, model.encode(source_ids)), token_ids, max_new_tokens=9)
    for _ in range(9):
        following = model(source_ids, token_ids)[:, -1].argmax(-1, keepdim=True)
        token_ids = torch.cat([token_ids, following], dim=1)
    assert torch.equal(generated, token_ids)


def test_key_maps_lose_nothing(config: TransformerConfig) -> None:
    torch.manual_seed(0)
    state_dict = create_transformer_model(config).state_dict()
    for layout in convert_transformer_checkpoint.key_maps:
        foreign = convert_transformer_checkpoint.export(state_dict, config, layout=layout)
        native = convert_transformer_checkpoint.load(foreign, config, layout=layout)
        assert native.keys() == state_dict.keys()
        assert all(torch.equal(native[name], state_dict[name]) for name in state_dict)


def test_shards_lose_nothing(config: TransformerConfig) -> None:
    torch.manual_seed(0)
    model = create_transformer_model(config)
    joined = joined_shards(model, lambda model, gangs: shard_transformer_model(model, config, gangs), tp=2)
    whole = dict(model.named_parameters())
    assert joined.keys() == whole.keys()
    assert all(torch.equal(joined[name], whole[name]) for name in whole)

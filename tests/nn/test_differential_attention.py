"""Differential attention computes what DiffLlama's does, and the same in several passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_peers import PADDING, Peer, assert_same, in_passes, inputs
from torch import Tensor, nn
from transformers.models.diffllama.modeling_diffllama import lambda_init_fn

from kinfold.errors import ConfigError
from kinfold.nn import DifferentialAttention, DynamicScaling, RMSNorm, Rotary, lambda_init, materialize, without_storage

pytestmark = pytest.mark.usefixtures("exact_softmax")


@pytest.fixture(autouse=True)
def exact_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of DiffLlama rounds to float32 as well."""
    monkeypatch.setattr(torch, "sum", lambda x, dim, dtype=None: x.sum(dim))


def pair(layer: int, **values: Any) -> tuple[Peer, DifferentialAttention]:
    peer = Peer("diffllama", "DiffLlama", layer=layer, num_hidden_layers=4, rms_norm_eps=1e-3, **values)
    norm = RMSNorm(16, eps=1e-3, weight=False)
    ours = DifferentialAttention(
        **peer.projections, lambda_init=lambda_init(layer), norm=norm, position=Rotary(8)
    ).double()
    for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"):
        setattr(ours, name, getattr(peer.attention, name))
    return peer, ours


@pytest.mark.parametrize("padding", [None, PADDING], ids=["full", "padded"])
@pytest.mark.parametrize("kv_heads", [2, 4])
@pytest.mark.parametrize("layer", [0, 3])
@torch.no_grad()
def test_it_is_that_of_diffllama(layer: int, kv_heads: int, padding: Tensor | None) -> None:
    peer, ours = pair(layer, num_key_value_heads=kv_heads)
    expected = peer(inputs(), padding)
    for lengths in ((), (5, 1, 3), (1,) * 9):
        assert_same(in_passes(ours, inputs(), padding, lengths), expected, padding)


@torch.no_grad()
def test_a_scale_and_a_window_are_its_own() -> None:
    peer, ours = pair(1)
    peer.attention.scaling = ours.scale = 0.7
    ours.window = 3
    assert_same(in_passes(ours, inputs(), None, (4, 5)), peer(inputs(), None, 3))


@torch.no_grad()
def test_keys_are_turned_anew_when_a_longer_sequence_asks_for_it() -> None:
    _, ours = pair(0)
    ours.position = Rotary(8, scaling=DynamicScaling(factor=2.0, original_max_seq_len=4))
    second = torch.arange(9).expand(2, 9) >= 3  # the first pass is shorter than the sequences trained on
    assert_same(in_passes(ours, inputs(), None, (3, 6)), in_passes(ours, inputs()), second)


def test_what_a_layer_begins_at_is_that_of_diffllama() -> None:
    assert [lambda_init(layer) for layer in range(40)] == [lambda_init_fn(layer) for layer in range(40)]


def attention(**parts: Any) -> DifferentialAttention:
    sizes: dict[str, Any] = {
        "q_proj": nn.Linear(16, 256),
        "k_proj": nn.Linear(16, 128),
        "v_proj": nn.Linear(16, 128),
        "output_proj": nn.Linear(256, 16),
        "head_dim": 64,
        "lambda_init": 0.2,
        "norm": RMSNorm(128, weight=False),
    }
    return DifferentialAttention(**{**sizes, **parts})


def test_fresh_vectors_are_drawn() -> None:
    with without_storage():
        module = attention()
    materialize(module)
    vectors = torch.cat([parameter for name, parameter in module.named_parameters() if name.startswith("lambda")])
    assert vectors.shape == (256,)
    assert vectors.std().item() == pytest.approx(0.1, rel=0.25)


def test_faults_are_refused_all_at_once() -> None:
    parts = {"k_proj": nn.Linear(16, 64), "v_proj": nn.Linear(16, 64), "norm": RMSNorm(64), "position": Rotary(128)}
    with pytest.raises(ConfigError) as error:
        attention(**parts, window=-1, scale=0.0)
    assert error.value.faults == (
        "position turns 128 dimensions of heads that have 64",
        "a window of -1 tokens sees nothing",
        "scale = 0.0: must be above 0",
        "norm is over 64, and must be over 128",
        "1 key and value heads cannot be halved",
    )
    with pytest.raises(ConfigError, match="head_dim -1"):
        attention(head_dim=-1)

"""Rotary positions turn heads as transformers does."""

from __future__ import annotations

import pytest
import torch
from transformers import GPTNeoXConfig, LlamaConfig
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXRotaryEmbedding
from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb as apply_partly
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb
from transformers.models.nanochat.modeling_nanochat import apply_rotary_pos_emb as apply_reversed

from kinfold.errors import ConfigError
from kinfold.nn import DecodeState, Rotary, YarnScaling

YARN = YarnScaling(factor=4.0, original_max_seq_len=8)  # its amplitude is not 1


@pytest.mark.parametrize("scaling", [None, YARN], ids=["plain", "yarn"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_heads_are_turned_as_in_transformers(scaling: YarnScaling | None, padded: bool, dtype: torch.dtype) -> None:
    heads = torch.randn(2, 3, 12, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    mask = torch.ones(2, 12, dtype=torch.bool)
    positions = torch.arange(12).repeat(2, 1)
    if padded:
        mask[1, :5] = False
        positions[1] = torch.tensor([0] * 5 + list(range(7)))
    kind = (
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}
        if scaling
        else {"rope_type": "default"}
    )
    config = LlamaConfig(hidden_size=48, num_attention_heads=3, rope_parameters={**kind, "rope_theta": 500.0})
    expected, _ = apply_rotary_pos_emb(heads, heads, *LlamaRotaryEmbedding(config)(heads, positions))

    state = DecodeState()
    state.extend(torch.zeros(2, 12, dtype=torch.int64), mask if padded else None)
    turned = Rotary(16, theta=500.0, scaling=scaling)(heads, state)

    assert turned.dtype == dtype
    torch.testing.assert_close(turned, expected, rtol=1e-6, atol=1e-6)


def test_layers_share_the_tables_of_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    rotary, state = Rotary(4), DecodeState(capacity=4)
    computed = []
    tables = rotary._tables
    monkeypatch.setattr(rotary, "_tables", lambda *args: computed.append(args) or tables(*args))
    for passes in (1, 2):
        state.extend(torch.zeros(1, 2, dtype=torch.int64))
        for _ in range(3):
            rotary(torch.ones(1, 1, 2, 4), state)
        assert len(computed) == passes


@pytest.mark.parametrize("dim", [0, -2, 3])
def test_an_odd_width_and_a_base_of_zero_are_refused_together(dim: int) -> None:
    with pytest.raises(ConfigError) as error:
        Rotary(dim, theta=0.0)
    assert error.value.faults == (f"dim = {dim}: must be even and above 0", "theta = 0.0: must be above 0")


@pytest.mark.parametrize("padded", [False, True])
def test_wider_heads_turn_in_part_as_those_of_gpt_neox(padded: bool) -> None:
    heads = torch.randn(2, 3, 12, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rope = {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.25}
    config = GPTNeoXConfig(hidden_size=48, num_attention_heads=3, rope_parameters=rope)
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, :5] = not padded
    cos, sin = GPTNeoXRotaryEmbedding(config)(heads, (mask.cumsum(1) - 1).clamp(min=0))
    expected, _ = apply_partly(heads, heads, cos, sin)

    state = DecodeState()
    state.extend(torch.zeros(2, 12, dtype=torch.int64), mask if padded else None)
    turned = Rotary(4, theta=500.0)(heads, state)

    torch.testing.assert_close(turned, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(turned[..., 4:], heads[..., 4:])


def test_reversed_heads_turn_as_those_of_nanochat() -> None:
    heads = torch.randn(2, 3, 12, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    config = LlamaConfig(hidden_size=48, num_attention_heads=3, rope_parameters={"rope_type": "default"})
    tables = LlamaRotaryEmbedding(config)(heads, torch.arange(12).repeat(2, 1))
    expected, _ = apply_reversed(heads, heads, *tables)
    state = DecodeState()
    state.extend(torch.zeros(2, 12, dtype=torch.int64))
    turned = Rotary(16, reversed=True)(heads, state)
    torch.testing.assert_close(turned, expected, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(turned, Rotary(16)(heads, state))

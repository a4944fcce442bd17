"""What layers are put together with."""

from __future__ import annotations

import pytest
import torch
from transformers import DogeConfig
from transformers.models.doge.modeling_doge import DogeDecoderLayer

from kinfold.errors import ConfigError
from kinfold.nn import LearnedScale, in_turns, materialize, without_storage


def test_layers_go_through_a_pattern_in_turns() -> None:
    assert [in_turns((4096, 4096, None), layer) for layer in range(7)] == [4096, 4096, None, 4096, 4096, None, 4096]
    assert in_turns([True], 30)


def test_an_empty_pattern_is_refused() -> None:
    with pytest.raises(ConfigError, match="Layer 3 gets nothing of an empty pattern"):
        in_turns((), 3)


def test_a_learned_scale_is_the_residual_weight_of_doge() -> None:
    config = DogeConfig(hidden_size=8, intermediate_size=8, num_attention_heads=2, num_hidden_layers=1)
    theirs = DogeDecoderLayer(config, layer_idx=0)
    with without_storage():
        ours = LearnedScale(8)
    materialize(ours)
    assert {"weight": theirs.input_residual.shape} == {name: p.shape for name, p in ours.named_parameters()}
    assert torch.equal(ours.weight, theirs.input_residual)
    torch.nn.init.normal_(ours.weight)
    x = torch.randn(2, 3, 8)
    assert torch.equal(ours(x), ours.weight * x)

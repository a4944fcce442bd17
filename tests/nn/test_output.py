"""What stands around the output projection computes what transformers' does."""

from __future__ import annotations

import torch
from torch import nn
from transformers import ModernBertDecoderConfig
from transformers.models.modernbert_decoder.modeling_modernbert_decoder import ModernBertDecoderPredictionHead

from kinfold.nn import Transform, soft_cap


def test_a_transform_is_that_of_the_modernbert_decoder() -> None:
    theirs = ModernBertDecoderPredictionHead(ModernBertDecoderConfig(hidden_size=8, num_attention_heads=2)).double()
    nn.init.normal_(theirs.norm.weight)
    ours = Transform(theirs.dense, nn.GELU(), theirs.norm)
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    assert torch.equal(ours(x), theirs(x))
    assert [name for name, _ in ours.named_parameters()] == ["proj.weight", "norm.weight"]


def test_a_soft_cap_keeps_small_values_and_bounds_large_ones() -> None:
    x = torch.tensor([0.0, 0.01, -0.01, 5.0, 1e6, -1e6], dtype=torch.float64)
    capped = soft_cap(x, 5.0)
    torch.testing.assert_close(capped[:3], x[:3], rtol=1e-5, atol=0)
    torch.testing.assert_close(capped[3:], torch.tensor([5 * 0.761594155955765, 5.0, -5.0], dtype=torch.float64))

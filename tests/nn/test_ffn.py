"""Feed-forward networks compute what transformers' do."""

from __future__ import annotations

import torch
from torch import nn
from transformers import BitNetConfig, GPTNeoXConfig, LlamaConfig
from transformers.models.bitnet.modeling_bitnet import BitNetMLP
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXMLP
from transformers.models.llama.modeling_llama import LlamaMLP

from kinfold.nn import FeedForward, GatedFeedForward, ReLUSquared

X = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))


def test_gated_is_that_of_llama() -> None:
    theirs = LlamaMLP(LlamaConfig(hidden_size=8, num_attention_heads=2, intermediate_size=12))
    ours = GatedFeedForward(
        gate_proj=theirs.gate_proj, inner_proj=theirs.up_proj, output_proj=theirs.down_proj, activation=nn.SiLU()
    )
    torch.testing.assert_close(ours(X), theirs(X))


def test_plain_is_that_of_gpt_neox() -> None:
    theirs = GPTNeoXMLP(GPTNeoXConfig(hidden_size=8, num_attention_heads=2, intermediate_size=12))
    ours = FeedForward(inner_proj=theirs.dense_h_to_4h, output_proj=theirs.dense_4h_to_h, activation=nn.GELU())
    torch.testing.assert_close(ours(X), theirs(X))


def test_a_norm_of_the_inner_values_is_that_of_bitnet() -> None:
    theirs = BitNetMLP(BitNetConfig(hidden_size=8, num_attention_heads=2, intermediate_size=12))
    torch.nn.init.normal_(theirs.ffn_sub_norm.weight)
    ours = GatedFeedForward(
        gate_proj=theirs.gate_proj,
        inner_proj=theirs.up_proj,
        output_proj=theirs.down_proj,
        activation=ReLUSquared(),
        inner_norm=theirs.ffn_sub_norm,
    )
    torch.testing.assert_close(ours(X), theirs(X))


def test_plain_has_it_in_the_same_place() -> None:
    inner, output, norm = nn.Linear(8, 12), nn.Linear(12, 8), nn.LayerNorm(12)
    ours = FeedForward(inner_proj=inner, output_proj=output, activation=nn.GELU(), inner_norm=norm)
    torch.testing.assert_close(ours(X), nn.Sequential(inner, nn.GELU(), norm, output)(X))

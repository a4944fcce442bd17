"""The ends of a model: a tied projection uses the embedding's weight, and the frontend adds up in a fixed order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import BloomConfig, OPTConfig
from transformers.models.bloom.modeling_bloom import BloomModel
from transformers.models.ctrl.modeling_ctrl import positional_encoding
from transformers.models.opt.modeling_opt import OPTModel

from kinfold.errors import ConfigError
from kinfold.nn import (
    DecodeState,
    EmbeddingFrontend,
    EncodeState,
    LearnedPositions,
    SinusoidalPositions,
    TiedProjection,
    materialize,
    without_storage,
)

TOKEN_IDS = torch.tensor([[1, 3, 0], [2, 4, 4]])


def embedded(frontend: EmbeddingFrontend) -> Tensor:
    return frontend(TOKEN_IDS, EncodeState(TOKEN_IDS))


def test_it_has_no_parameter_and_no_name() -> None:
    model = nn.ModuleList([EmbeddingFrontend(embed := nn.Embedding(5, 4)), TiedProjection(embed)])
    assert [name for name, _ in model.named_parameters(remove_duplicate=False)] == ["0.embed.weight"]
    assert list(model.state_dict()) == ["0.embed.weight"]


def test_gradients_of_both_uses_add_up_in_the_one_weight() -> None:
    embed = nn.Embedding(5, 4).double()
    frontend, projection = EmbeddingFrontend(embed), TiedProjection(embed)
    token_ids = torch.tensor([[1, 3]])
    projection(frontend(token_ids, EncodeState(token_ids))).square().sum().backward()

    used, projected = (embed.weight.detach().clone().requires_grad_() for _ in range(2))
    linear(used[token_ids], projected).square().sum().backward()
    assert used.grad is not None
    assert projected.grad is not None
    assert projected.grad.all()
    torch.testing.assert_close(embed.weight.grad, used.grad + projected.grad)


def test_a_bias_is_its_own_and_begins_at_zero() -> None:
    with without_storage():
        model = nn.ModuleList([embed := nn.Embedding(5, 4), TiedProjection(embed, bias=True)])
    materialize(model)
    assert list(model.state_dict()) == ["0.weight", "1.bias"]
    x = torch.randn(2, 4)
    bias = model.get_parameter("1.bias")
    assert torch.equal(bias, torch.zeros(5))
    nn.init.normal_(bias)
    weight = model.get_parameter("0.weight")  # not that of before: it got its storage since
    torch.testing.assert_close(model[1](x), linear(x, weight, bias))


def test_a_projection_from_another_width_comes_before_positions_as_in_opt() -> None:
    sizes: dict[str, Any] = {"hidden_size": 8, "word_embed_proj_dim": 4, "ffn_dim": 8, "num_attention_heads": 2}
    peer: Any = OPTModel(OPTConfig(**sizes, num_hidden_layers=0, vocab_size=5, do_layer_norm_before=False)).decoder
    peer.project_out = None
    position = LearnedPositions(peer.embed_positions.num_embeddings, 8, start=2)
    position.weight.data = peer.embed_positions.weight.data
    ours = EmbeddingFrontend(peer.embed_tokens, project=peer.project_in, position=position)
    torch.testing.assert_close(embedded(ours), peer(TOKEN_IDS).last_hidden_state)


def test_a_norm_of_embeddings_is_that_of_bloom() -> None:
    peer: Any = BloomModel(BloomConfig(vocab_size=5, hidden_size=8, n_head=2, n_layer=0))
    peer.ln_f = nn.Identity()
    nn.init.normal_(peer.word_embeddings_layernorm.weight)
    ours = EmbeddingFrontend(peer.word_embeddings, norm=peer.word_embeddings_layernorm)
    torch.testing.assert_close(embedded(ours), peer(TOKEN_IDS).last_hidden_state)


def test_the_order_is_scale_projection_position_norm_dropout() -> None:
    embed, project, norm = nn.Embedding(5, 4), nn.Linear(4, 8), nn.LayerNorm(8)
    position = LearnedPositions(3, 8, init_std=1.0)
    ours = EmbeddingFrontend(embed, scale=3.0, project=project, position=position, norm=norm, dropout=nn.Dropout(1.0))
    assert not embedded(ours).any()
    expected = norm(project(embed(TOKEN_IDS) * 3) + position.weight)
    torch.testing.assert_close(embedded(ours.eval()), expected)


# --- positions ---


def test_frequencies_of_the_paper_are_those_of_ctrl() -> None:
    state = DecodeState()
    state.extend(torch.zeros(1, 50, dtype=torch.int64))
    ours = SinusoidalPositions(16, frequencies="paper")(state)
    torch.testing.assert_close(ours, positional_encoding(50, 16, torch.float32), rtol=1e-6, atol=1e-5)
    assert not torch.allclose(ours, SinusoidalPositions(16)(state), atol=1e-2)


def test_all_that_sinusoidal_positions_cannot_be_is_refused_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        SinusoidalPositions(3, start=-1, frequencies="mine")  # pyright: ignore[reportArgumentType]
    assert error.value.faults == (
        "dim = 3: must be even and at least 4",
        "start = -1: must be 0 or more",
        "frequencies = 'mine': must be 'tensor2tensor' or 'paper'",
    )

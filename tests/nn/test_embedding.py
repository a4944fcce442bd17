"""A tied projection has no weight of its own: it uses the embedding's, and trains it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import linear

from kinfold.nn import EmbeddingFrontend, EncodeState, TiedProjection


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

"""Activations compute what transformers' of the same name do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN, XIELUActivation

from kinfold.nn import XIELU, QuickGELU, ReLUSquared, materialize, without_storage

X = torch.linspace(-4, 4, 101, dtype=torch.float64)


@pytest.mark.parametrize(("ours", "name"), [(ReLUSquared(), "relu2"), (QuickGELU(), "quick_gelu")])
def test_it_is_that_of_transformers(ours: nn.Module, name: str) -> None:
    theirs: Any = ACT2FN[name]
    assert torch.equal(ours(X), theirs(X))
    assert torch.equal(ours(X.bfloat16()), theirs(X.bfloat16()))


def test_xielu_is_that_of_transformers() -> None:
    theirs = XIELUActivation(alpha_p_init=0.6, alpha_n_init=1.1, beta=0.3, eps=-1e-5)
    ours = XIELU()
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours.double()(X), theirs.double()(X), rtol=1e-12, atol=1e-12)


def test_a_fresh_xielu_is_theirs_too() -> None:
    with without_storage():
        ours = XIELU()
    materialize(ours, dtype=torch.bfloat16)
    theirs = XIELUActivation().state_dict()
    assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == {
        name: tensor.shape for name, tensor in theirs.items()
    }
    for name, tensor in ours.state_dict().items():
        assert tensor.item() == pytest.approx(theirs[name].item(), rel=0.01)  # theirs is worked out in bfloat16
    assert {name for name, parameter in ours.named_parameters() if not parameter.requires_grad} == {"beta", "eps"}


def test_what_xielu_does_not_learn_keeps_every_bit() -> None:
    stored = XIELUActivation(beta=0.3, eps=-3e-6).state_dict()
    ours = XIELU().double()
    ours.load_state_dict(stored)
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor.bfloat16(), stored[name])

"""Norms compute what transformers' do, those of Llama and Gemma to the bit, in every dtype."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers.models.cohere.modeling_cohere import CohereLayerNorm
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.nanochat.modeling_nanochat import NanoChatRMSNorm
from transformers.models.nemotron.modeling_nemotron import NemotronLayerNorm1P
from transformers.models.olmo.modeling_olmo import OlmoLayerNorm

from kinfold.errors import ConfigError
from kinfold.nn import LayerNorm, RMSNorm, materialize, without_storage

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])


def vectors(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """So small that eps tells."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype) * 1e-2


def sharing(ours: nn.Module, theirs: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The two with the same random weights."""
    torch.manual_seed(0)
    for name, parameter in theirs.named_parameters():
        parameter.data = ours.get_parameter(name).data = torch.empty_like(parameter).uniform_(-1.5, 1.5)
    assert {name for name, _ in ours.named_parameters()} == {name for name, _ in theirs.named_parameters()}
    return ours, theirs


@DTYPES
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (RMSNorm(16, eps=1e-3), LlamaRMSNorm(16, eps=1e-3)),
        (RMSNorm(16, eps=1e-3, offset=1.0), Gemma2RMSNorm(16, eps=1e-3)),
        (RMSNorm(16, eps=1e-3, weight=False), NanoChatRMSNorm(eps=1e-3)),
        (LayerNorm(16, eps=1e-3), nn.LayerNorm(16, eps=1e-3)),
        (LayerNorm(16, weight=False, bias=False), OlmoLayerNorm(16)),
    ],
    ids=["llama", "gemma2", "nanochat", "torch", "olmo"],
)
def test_it_is_that_of_others_to_the_bit(ours: nn.Module, theirs: nn.Module, dtype: torch.dtype) -> None:
    ours, theirs = sharing(ours, theirs)
    x = vectors(2, 3, 16, dtype=dtype)
    normed = ours.to(dtype)(x)
    assert normed.dtype == dtype
    assert torch.equal(normed, theirs.to(dtype)(x))


@pytest.mark.parametrize(
    ("ours", "theirs", "shape"),
    [
        (LayerNorm(16, eps=1e-3, bias=False), CohereLayerNorm(16, eps=1e-3), (2, 3, 16)),
        (LayerNorm(16, eps=1e-3, bias=False, heads=3), CohereLayerNorm((3, 16), eps=1e-3), (2, 3, 5, 16)),
    ],
    ids=["one weight", "by head"],
)
@DTYPES
def test_it_is_that_of_cohere(ours: nn.Module, theirs: nn.Module, shape: Any, dtype: torch.dtype) -> None:
    ours, theirs = sharing(ours, theirs)
    x = vectors(*shape, dtype=dtype)
    by_token = x.transpose(1, -2)  # where theirs has the heads
    rtol = 1e-5 if dtype == torch.float32 else torch.finfo(dtype).eps  # the last bit
    torch.testing.assert_close(ours.to(dtype)(x), theirs.to(dtype)(by_token).transpose(1, -2), rtol=rtol, atol=0)


def test_it_is_that_of_nemotron() -> None:
    ours, theirs = sharing(LayerNorm(16, offset=1.0).double(), NemotronLayerNorm1P(16).double())
    torch.testing.assert_close(ours(vectors(2, 3, 16)), theirs(vectors(2, 3, 16)), rtol=1e-12, atol=1e-12)


@DTYPES
@pytest.mark.parametrize("kind", [RMSNorm, LayerNorm])
def test_a_weight_with_an_offset_is_added_up_in_float32(kind: Any, dtype: torch.dtype) -> None:
    """1 + 1e-3 is 1 in bfloat16."""
    norm = kind(512, offset=1.0).to(dtype)
    nn.init.constant_(norm.weight, 3e-3)
    x = vectors(64, 512, dtype=dtype) * 100
    exact = kind(512).double()(x.double()) * 1.003
    assert (norm(x).double() - exact).mean().abs() < 1e-4
    torch.testing.assert_close(norm(x).double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("heads", [None, 3])
@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("kind", [RMSNorm, LayerNorm])
def test_a_fresh_norm_does_nothing_but_norm(kind: Any, offset: float, heads: int | None) -> None:
    with without_storage():
        norm = kind(16, offset=offset, heads=heads)
    materialize(norm, dtype=torch.float64)
    assert norm.weight.shape == ((16,) if heads is None else (3, 16))
    assert (norm.weight == 1 - offset).all()
    x = vectors(2, 3, 5, 16)
    plain = {RMSNorm: nn.RMSNorm(16, eps=1e-5), LayerNorm: nn.LayerNorm(16, eps=1e-5)}[kind].double()
    torch.testing.assert_close(norm(x), plain(x), rtol=1e-14, atol=0)


def test_large_values_of_float16_do_not_overflow() -> None:
    x = torch.full((1, 16), 60000.0, dtype=torch.float16)
    assert torch.equal(RMSNorm(16).half()(x), torch.ones_like(x))


@pytest.mark.parametrize("kind", [RMSNorm, LayerNorm])
def test_all_that_does_not_fit_together_is_refused_at_once(kind: Any) -> None:
    with pytest.raises(ConfigError) as error:
        kind(0, offset=1.0, weight=False, heads=-1)
    assert error.value.faults == (
        "dim = 0: must be above 0",
        "heads = -1: must be above 0",
        "offset = 1.0: there is no weight that it could be added to",
    )

"""RMSNorm computes what transformers' does, to the bit, in every dtype."""

from __future__ import annotations

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from kinfold.nn import RMSNorm


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_it_is_that_of_transformers(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    ours, theirs = RMSNorm(16, eps=1e-3), LlamaRMSNorm(16, eps=1e-3)
    theirs.weight.data = ours.weight.data.uniform_(0.5, 1.5)
    x = torch.randn(2, 3, 16, dtype=dtype) * 1e-2  # so small that eps tells
    normed = ours.to(dtype)(x)
    assert normed.dtype == dtype
    assert torch.equal(normed, theirs.to(dtype)(x))


def test_float64_stays_as_precise() -> None:
    norm = RMSNorm(16).double()
    x = torch.randn(4, 16, dtype=torch.float64)
    expected = torch.nn.functional.rms_norm(x, (16,), eps=1e-5)
    torch.testing.assert_close(norm(x), expected, rtol=1e-14, atol=0)


def test_large_values_of_float16_do_not_overflow() -> None:
    x = torch.full((1, 16), 60000.0, dtype=torch.float16)
    assert torch.equal(RMSNorm(16).half()(x), torch.ones_like(x))

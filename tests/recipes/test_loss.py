"""The loss of the recipes is exact, whatever the model computes in."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from kinfold.recipes.loss import summed_cross_entropy
from kinfold.training.batch import IGNORED


@pytest.mark.parametrize("autocast", [False, True])  # on CPUs this computes it in float32 anyway, on GPUs it does not
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_the_loss_of_logits_in_bfloat16_is_computed_in_float32(label_smoothing: float, autocast: bool) -> None:
    torch.manual_seed(0)
    logits = (4 * torch.randn(2, 8, 1000)).bfloat16().requires_grad_()
    targets = torch.randint(1000, (2, 8))
    targets[0, :3] = IGNORED
    exact = cross_entropy(
        logits.double().flatten(0, 1), targets.flatten(), reduction="sum", label_smoothing=label_smoothing
    )
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = summed_cross_entropy(logits, targets, label_smoothing=label_smoothing)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)
    (expected,) = torch.autograd.grad(exact, logits)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, expected)


def test_the_loss_of_logits_in_float64_stays_in_it() -> None:
    logits, targets = torch.randn(1, 2, 5, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.int64)
    assert summed_cross_entropy(logits, targets).dtype == torch.float64

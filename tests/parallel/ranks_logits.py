"""Losses of logits that ranks share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from kinfold.parallel import cross_entropy, setup_gangs


def logits_of(vocab_size: int, dtype: torch.dtype, *, label_smoothing: float = 0.0, **_: Any) -> tuple[Tensor, Tensor]:
    """Logits, far apart, and targets, of which two do not count; without smoothing one token can never be said."""
    numbers = torch.Generator().manual_seed(0)
    logits = (20 * torch.randn(2, 6, vocab_size, generator=numbers, dtype=torch.float64)).to(dtype)
    targets = torch.randint(vocab_size, (2, 6), generator=numbers)
    targets[0, 1] = targets[1, 4] = -100
    if not label_smoothing:
        logits[0, 0, (targets[0, 0] + 1) % vocab_size] = -torch.inf
    return logits, targets


def losses(cases: Sequence[tuple[int, torch.dtype, dict[str, Any]]]) -> list[tuple[Tensor, Tensor]]:
    """The loss and the gradient of each case: the size of a vocabulary, a dtype, and options."""
    found = []
    with setup_gangs(tp=4, device="cpu") as gangs:
        for vocab_size, dtype, options in cases:
            logits, targets = logits_of(vocab_size, dtype, **options)
            spread = distribute_tensor(logits, gangs["tp"].mesh, [Shard(2)]).requires_grad_()
            loss = cross_entropy(spread, targets, **options)
            (loss * 3).backward()
            assert isinstance(spread.grad, DTensor)
            assert spread.grad.dtype == dtype
            found.append((loss.detach(), spread.grad.full_tensor()))
    return found

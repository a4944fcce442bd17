"""Loss parallel: logits that stay spread over the vocabulary, and their cross-entropy.

Of a large vocabulary the logits are what there is most of at the end of a forward pass. Every rank keeps those of its
own tokens, and a few numbers for each position are summed (Shoeybi et al. 2019, section 3, last paragraph).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor
from torch.nn import functional

from kinfold.nn.precision import at_least_float32
from kinfold.parallel.styles import LOGITS

IGNORED = -100
"""The target where nothing is to be predicted, as torch has it."""


def spread_logits(model: nn.Module) -> None:
    """Have a model give logits as DTensors, of which each rank of `tp` has its part of the vocabulary.

    `cross_entropy` takes them. Nothing is done with a model that is not spread over `tp`.

    Args:
        model: The model, in place, after `shard_model`.
    """
    for module in model.modules():
        if hasattr(module, LOGITS):
            setattr(module, LOGITS, "spread")


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = IGNORED,
    reduction: Literal["mean", "sum"] = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """torch's cross-entropy, of logits that may be spread over the vocabulary; in float32 or wider.

    Args:
        logits: (..., V), a tensor, or a DTensor that is spread by its last dimension (`spread_logits`).
        targets: int64, (...), the same on every rank that shares the logits.
        ignore_index: The target where nothing is to be predicted.
        reduction: Whether losses are summed, or their mean is taken.
        label_smoothing: The share of probability spread evenly over the vocabulary (Szegedy et al. 2016, section 7).

    Returns:
        A scalar, the same on every rank.
    """
    if isinstance(logits, DTensor):
        mesh, vocab_size = logits.device_mesh, logits.shape[-1]
        first = mesh.get_local_rank() * -(-vocab_size // mesh.size())  # divided as `torch.chunk` does
        share = (first, vocab_size, mesh.get_group())
        loss = _SpreadCrossEntropy.apply(logits.to_local(), targets, share, ignore_index, label_smoothing)
        assert isinstance(loss, Tensor)
        return loss if reduction == "sum" else loss / (targets != ignore_index).sum()
    # Autocast would take the logarithms of probabilities in bfloat16.
    return functional.cross_entropy(
        logits.to(at_least_float32(logits.dtype)).flatten(0, -2),
        targets.flatten(),
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )


class _SpreadCrossEntropy(torch.autograd.Function):
    """The sum over all positions, of the logits of this rank's tokens, (..., V/N)."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        targets: Tensor,
        share: tuple[int, int, dist.ProcessGroup],
        ignore_index: int,
        smoothing: float,
    ) -> Tensor:
        first, vocab_size, group = share
        own = targets - first
        is_own = (own >= 0) & (own < logits.shape[-1])
        own = own.where(is_own, 0).unsqueeze(-1)
        x = logits.to(at_least_float32(logits.dtype), copy=True)
        most = x.amax(-1) if x.shape[-1] else x.new_full(targets.shape, -torch.inf)
        dist.all_reduce(most, dist.ReduceOp.MAX, group=group)
        x.sub_(most.unsqueeze(-1))
        wanted = x.gather(-1, own).squeeze(-1).where(is_own, 0) if x.shape[-1] else torch.zeros_like(most)
        if smoothing:
            wanted = (1 - smoothing) * wanted + smoothing / vocab_size * x.sum(-1)
        sums = torch.stack([x.exp_().sum(-1), wanted])
        dist.all_reduce(sums, group=group)
        total, wanted = sums
        losses = total.log() - wanted
        counts = targets != ignore_index
        ctx.save_for_backward(x.div_(total.unsqueeze(-1)), own, is_own, counts)
        ctx.dtype, ctx.smoothing, ctx.vocab_size = logits.dtype, smoothing, vocab_size
        return losses.where(counts, 0).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        # In place: a second pass over the same graph is refused by torch.
        probabilities, own, is_own, counts = ctx.saved_tensors
        if probabilities.shape[-1]:
            probabilities.scatter_add_(-1, own, is_own.unsqueeze(-1).to(probabilities.dtype) * (ctx.smoothing - 1))
        if ctx.smoothing:
            probabilities.sub_(ctx.smoothing / ctx.vocab_size)
        probabilities.mul_((counts * gradients[0]).unsqueeze(-1))
        return probabilities.to(ctx.dtype), None, None, None, None

"""Data parallel with sharded weights: torch's FSDP2, layer by layer (Zhao et al. 2023)."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from kinfold.errors import ParallelError
from kinfold.parallel.gangs import Gang
from kinfold.parallel.layers import layers_of

if TYPE_CHECKING:
    import torch
    from torch import nn


def shard_data_parallel(
    model: nn.Module,
    gang: Gang,
    *,
    dtype: torch.dtype | None = None,
    reduce_dtype: torch.dtype | None = None,
    reshard_after_forward: bool = True,
) -> None:
    """Spread all weights, gradients and what the optimizer keeps over the ranks that share the data.

    Each layer is put together when it computes, and taken apart again. After `shard_model`, before an optimizer is
    made. Gradients are means over the ranks.

    Args:
        model: The model, in place; on the meta device, or with the same weights on every rank.
        gang: The gang `dp`; of one rank, nothing is done.
        dtype: What weights are cast to while they compute; None leaves them.
        reduce_dtype: What gradients are summed in; None for that of the weights as they are kept.
        reshard_after_forward: Take layers apart after the forward pass too, and put them together again for the
            backward pass: less memory, more to send.

    Raises:
        ParallelError: Weights that are trained have no dimension to be spread by; lists them.
    """
    if gang.size == 1:
        return
    numbers = {name: parameter for name, parameter in model.named_parameters() if not parameter.dim()}
    if trained := [name for name, number in numbers.items() if number.requires_grad]:
        raise ParallelError(
            "Numbers cannot be spread over ranks, and these are trained:",
            faults=trained,
            hint="Give them the shape (1,), or freeze them.",
        )
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    kept = next(model.parameters()).dtype
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=reduce_dtype or kept if dtype else reduce_dtype)
    options = {
        "mesh": gang.mesh,
        "mp_policy": policy,
        "reshard_after_forward": reshard_after_forward,
        "ignored_params": set(numbers.values()),
    }
    for _, layer in layers_of(model):
        fully_shard(layer, **options)
    fully_shard(model, **options)
    # Logits that ranks have put together are views, which concerns who changes them in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")

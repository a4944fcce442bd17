"""Giving a model on the meta device its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from kinfold.errors import CertificateError

Progress = Callable[[int, int], None]
"""Called with the bytes loaded so far and the bytes of the whole model."""


def fill(
    model: nn.Module,
    weights: Iterable[tuple[str, Tensor]],
    *,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress | None = None,
) -> None:
    """Replace the parameters and buffers of a model on the meta device by weights, one at a time.

    Args:
        model: The model; changed in place.
        weights: Native names and tensors; each name once. Where the model has a DTensor they are DTensors, too.
        device: Where the weights are moved to.
        dtype: What floating weights are cast to; others keep theirs.
        progress: Called after each weight.

    Raises:
        CertificateError: A weight has the wrong shape, or some are missing.
    """
    unsaved = {name: buffer for name, buffer in model.named_buffers() if buffer.is_meta}
    waiting = {**model.state_dict(keep_vars=True), **unsaved}
    sizes = {
        name: tensor.numel() * (dtype if tensor.is_floating_point() else tensor.dtype).itemsize
        for name, tensor in waiting.items()
    }
    total = sum(sizes.values())
    done = 0
    for name, weight in weights:
        placeholder = waiting.pop(name)
        if weight.shape != placeholder.shape:
            raise CertificateError(f"{name} has the shape {tuple(placeholder.shape)}, not {tuple(weight.shape)}.")
        weight = weight.to(device, dtype if weight.is_floating_point() else weight.dtype)
        owner_name, _, leaf = name.rpartition(".")
        owner = model.get_submodule(owner_name)
        if isinstance(placeholder, nn.Parameter):
            parameter = nn.Parameter(weight, requires_grad=placeholder.requires_grad)
            if type(weight) is Tensor:
                setattr(owner, leaf, parameter)
            else:  # so that torch's own wrappers take notice: FSDP2 keeps what it gathers from
                owner.load_state_dict({leaf: parameter}, strict=False, assign=True)
        else:
            setattr(owner, leaf, weight)
        done += sizes[name]
        if progress is not None:
            progress(done, total)
    if waiting:
        raise CertificateError("Some parameters or buffers were not filled:", faults=list(waiting))

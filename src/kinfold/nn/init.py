"""Giving a model that was put together on the meta device its storage and first weights."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def materialize(
    model: Model,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    init_std: float = 0.02,
) -> Model:
    """Give a model on the meta device its storage and fresh weights.

    Weights of linear maps and embeddings are normal with mean 0, their biases 0; other modules set their own by
    `reset_parameters`.

    Args:
        model: The model; changed in place.
        device: Where the weights shall lie; torch's default device if None. "meta" leaves them without storage.
        dtype: Their dtype; torch's default dtype if None.
        init_std: The standard deviation.

    Returns:
        The model.
    """
    device = torch.get_default_device() if device is None else torch.device(device)
    model = model.to(dtype=dtype or torch.get_default_dtype())
    if device.type == "meta":
        return model
    model = model.to_empty(device=device)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=init_std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        elif callable(reset := getattr(module, "reset_parameters", None)):
            reset()
    return model

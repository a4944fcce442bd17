"""Putting a model together without storage, and then giving it its storage and first weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

Model = TypeVar("Model", bound=nn.Module)

Around = Callable[[str, nn.Module, torch.device], AbstractContextManager[object]]
"""Called with the name of a module, the module, and the device that its weights are to lie on."""

_AROUND: ContextVar[Around | None] = ContextVar("around", default=None)


@contextmanager
def without_storage() -> Iterator[None]:
    """Modules that are made in this context lie on the meta device, and are not initialised: `materialize` does both.

    Example:
        with without_storage():
            model = MymodelModel(...)
        materialize(model, device="cuda")
    """
    with torch.device("meta"), _SkipInit():
        yield


class _SkipInit(TorchFunctionMode):
    """Leaves out the functions of `torch.nn.init`: without values they cost time (normal_ imports the compiler)."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def materialize(
    model: Model,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    init_std: float = 0.02,
) -> Model:
    """Give a model that was put together `without_storage` its storage and fresh weights.

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
    around = _AROUND.get()
    if around is None:
        model = model.to_empty(device=device)
    for name, module in model.named_modules():
        with nullcontext() if around is None else around(name, module, device):
            _give_weights(module, init_std)
    return model


@contextmanager
def around_each_module(around: Around) -> Iterator[None]:
    """Have `materialize` give no model its storage, but enter `around` where it gives a module its own weights."""
    before = _AROUND.set(around)
    try:
        yield
    finally:
        _AROUND.reset(before)


def _give_weights(module: nn.Module, init_std: float) -> None:
    """Set those that a module has itself."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=init_std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    elif callable(reset := getattr(module, "reset_parameters", None)):
        reset()

"""Fresh weights of a model that no rank could hold: each keeps its part of every module, as soon as that is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kinfold.filling import fill
from kinfold.nn.init import around_each_module
from kinfold.parallel.local import own_part
from kinfold.parallel.styles import reduce_gradients


def fresh_model(
    create: Callable[..., nn.Module],
    config: Any,
    spread: Callable[[nn.Module], object],
    *,
    seed: int,
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """A model with fresh weights that is spread over ranks: bit for bit those that one process would make.

    Every rank makes all weights, module by module, and keeps its part of each. A factory that changes weights after
    `materialize`, or makes them without it, has all of them made at once, in every process.

    Args:
        create: The factory of a family: `create(config, device=..., dtype=...)`.
        config: Its config.
        spread: Spreads a model in place: `shard_model`, `keep_stage`, `shard_data_parallel` and so on.
        seed: Of torch's generators, which are set to it.
        device: Where the weights are made, and stay.
        dtype: Their dtype.

    Raises:
        ParallelError: The model cannot be spread so.
    """
    device = torch.device(device)
    make = partial(_make, create, config, seed=seed, device=device, dtype=dtype)
    if not dist.is_initialized():  # there is nobody to share it with
        model = make()
        spread(model)
        return model
    model = create(config, device="meta", dtype=dtype)
    spread(model)
    waiting = {name: tensor for name, tensor in _tensors(model).items() if tensor.is_meta}
    taker = _Taker(waiting)
    with taker, around_each_module(taker.take):
        made = make()
    weights = taker.weights
    if not taker.has_taken_all_of(made):
        whole = _tensors(make())
        weights = {name: own_part(placeholder, whole[name].detach()) for name, placeholder in waiting.items()}
    fill(model, weights.items(), device=device, dtype=dtype)
    reduce_gradients(model)  # their hooks are on the parameters, which are others now
    return model


def _make(create: Callable[..., nn.Module], config: Any, *, seed: int, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    return create(config, **options)


def _tensors(module: nn.Module, *, recurse: bool = True) -> dict[str, Tensor]:
    """Parameters and buffers, by name, also those that a state dict leaves out."""
    parameters = module.named_parameters(recurse=recurse, remove_duplicate=False)
    return {**dict(parameters), **dict(module.named_buffers(recurse=recurse, remove_duplicate=False))}


class _Taker(TorchDispatchMode):
    """Takes the weights of each module as they are made, and sees whether anybody comes back to them.

    Args:
        waiting: By name, what this rank keeps, on the meta device.

    Attributes:
        weights: What it has taken.
    """

    def __init__(self, waiting: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.weights: dict[str, Tensor] = {}
        self._waiting = waiting
        self._left: dict[str, Tensor] = {}
        self._has_begun = False
        self._is_touched = False

    def has_taken_all_of(self, made: nn.Module) -> bool:
        """Whether what was taken is what the model has come to have: nothing was done to what was left of it."""
        has = _tensors(made)
        same = has.keys() == self._left.keys() and all(has[name] is left for name, left in self._left.items())
        return same and not self._is_touched and self.weights.keys() == self._waiting.keys()

    @contextmanager
    def take(self, name: str, module: nn.Module, device: torch.device) -> Iterator[None]:
        """Give a module storage for its own weights, and take them once they are set."""
        self._has_begun = True
        module.to_empty(device=device, recurse=False)
        yield
        prefix = f"{name}." if name else ""
        for leaf, tensor in _tensors(module, recurse=False).items():
            if (full := prefix + leaf) in self._waiting:
                self.weights[full] = own_part(self._waiting[full], tensor.detach())
        module.to_empty(device="meta", recurse=False)
        self._left.update((prefix + leaf, left) for leaf, left in _tensors(module, recurse=False).items())

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if self._has_begun and func._schema.is_mutable:
            self._is_touched |= any(isinstance(leaf, Tensor) and leaf.is_meta for leaf in tree_leaves((args, kwargs)))
        return func(*args, **(kwargs or {}))

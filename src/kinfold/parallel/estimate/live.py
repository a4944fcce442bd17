"""How many bytes operators have made that are still there: the live memory of a computation, real or fake."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, UntypedStorage
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kinfold.parallel.local import local


class Live(TorchDispatchMode):
    """Counts the storages that operators make while it is on, each once, until it is freed.

    What allocators add is not counted: rounding, and what they keep in hand.

    Args:
        known: Tensors that do not count, such as parameters; views of them do not either.
        casts_of: Those of them of which casts do not count either.

    Attributes:
        now: Bytes that are there.
        before_next: Called before the next operator, once.
    """

    def __init__(self, known: Iterable[Tensor] = (), casts_of: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = 0
        self.before_next: Callable[[], None] | None = None
        self._peak = 0
        self._known = weakref.WeakSet(local(tensor).untyped_storage() for tensor in known)
        self._castable = weakref.WeakSet(local(tensor).untyped_storage() for tensor in casts_of)
        self._cast: weakref.WeakSet[UntypedStorage] = weakref.WeakSet()

    def lap(self) -> int:
        """The most bytes that there were at a time since this was last asked."""
        peak, self._peak = self._peak, self.now
        return peak

    def was_cast(self, tensor: Tensor) -> bool:
        """Whether one of `casts_of` was cast."""
        return local(tensor).untyped_storage() in self._cast

    def catch_up(self) -> None:
        """There is no next operator."""
        if (call := self.before_next) is not None:
            self.before_next = None
            call()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if any(issubclass(kind, DTensor | AsyncCollectiveTensor) for kind in types):
            return NotImplemented  # they come again as the local tensors that they are made of
        self.catch_up()
        given = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and (storage := args[0].untyped_storage()) in self._castable:
            self._cast.add(storage)
            self._known.add(given.untyped_storage())
        for tensor in tree_leaves(given):
            if not isinstance(tensor, Tensor) or tensor.device.type == "meta":
                continue
            if (storage := tensor.untyped_storage()) not in self._known:
                self._known.add(storage)
                if func is torch.ops._c10d_functional.wait_tensor.default:
                    # Where there are values it gives what it is given; without them a copy, which stands for that.
                    weakref.finalize(storage, _let_go, args[0].untyped_storage())
                else:
                    self._count(storage.nbytes())
                    weakref.finalize(storage, self._count, -storage.nbytes())
        return given

    def _count(self, nbytes: int) -> None:
        self.now += nbytes
        self._peak = max(self._peak, self.now)


def _let_go(_: object) -> None:
    """A finalizer has held what it is called with until now."""

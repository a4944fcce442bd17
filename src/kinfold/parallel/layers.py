"""The layers of a model, which are what is sharded, checkpointed or given to a stage one by one."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from kinfold.errors import ParallelError

if TYPE_CHECKING:
    from torch import nn


def layers_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The names and modules of all layers: what is in a container called `layers` (`decoder.layers.0`, ...).

    Raises:
        ParallelError: There are none.
    """
    containers = [(name, module) for name, module in model.named_modules() if name.rpartition(".")[2] == "layers"]
    if not any(True for _, module in containers for _ in module.children()):
        raise ParallelError(f"A {type(model).__name__} has no layers: none of its modules is called `layers`.")
    for name, module in containers:
        yield from ((f"{name}.{number}", layer) for number, layer in module.named_children())


def checkpoint_activations(model: nn.Module) -> None:
    """Keep of each layer but what it is given, and compute the rest again for gradients (Chen et al. 2016, section 4).

    Args:
        model: The model, in place; before `shard_data_parallel` and before it is compiled.
    """
    from torch.utils.checkpoint import checkpoint

    for _, layer in layers_of(model):
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)

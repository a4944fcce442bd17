"""Reading a checkpoint into a model that is spread over ranks: each rank reads its own parts, and no more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from kinfold.checkpoint.base import Checkpoint
from kinfold.checkpoint.manifest import ITEMSIZES, Manifest
from kinfold.keymap import Plan
from kinfold.keymap.ops import Index, Shape, TensorSource
from kinfold.keymap.ops.base import Positions
from kinfold.parallel.local import part_of, spread_as


def bytes_to_read(model: nn.Module, plan: Plan, source: Manifest) -> int:
    """How many bytes of a checkpoint this rank reads to fill its part of a model, known without reading.

    Args:
        model: The model, spread.
        plan: How it is filled.
        source: The manifest of the checkpoint; quantised tensors count as they are once decoded.
    """
    read = [
        part
        for name, own in model.state_dict(keep_vars=True).items()
        for part in plan.parts_of(name, part_of(own), source)
    ]
    return sum(prod(map(len, index)) * ITEMSIZES[source[name].dtype] for name, index in read)


def own_weights(
    model: nn.Module, plan: Plan, checkpoint: Checkpoint, *, device: torch.device, dtype: torch.dtype, mmap: bool = True
) -> Iterator[tuple[str, Tensor]]:
    """The weights of this rank, one at a time: of a DTensor its part, wrapped, and anything else in whole.

    Copies are not checked (`Plan.check_copies`), and of what is not in the model nothing is read.

    Args:
        model: The model on the meta device, spread, or only a stage of it.
        plan: How the whole model is filled.
        checkpoint: What is read.
        device: Where weights are moved to.
        dtype: What floating weights are cast to; others keep theirs.
        mmap: Leave rows that need no change mapped to the file; False copies them.
    """
    waiting = model.state_dict(keep_vars=True)
    for step in plan.steps:
        own = [name for name in step.targets if name in waiting]
        if own == list(step.targets) and not any(isinstance(waiting[name], DTensor) for name in own):
            for name, weight in step.load(lambda name: checkpoint.tensor(name, mmap=mmap)):
                yield name, _moved(weight, device, dtype)
            continue
        for name in own:
            part = plan.read(name, part_of(waiting[name]), lambda name: _Parts(checkpoint, name))
            yield name, spread_as(waiting[name], _alone(_moved(part, device, dtype), mmap=mmap))


@dataclass(frozen=True, slots=True)
class _Parts:
    """A tensor of a checkpoint, of which only parts are read."""

    checkpoint: Checkpoint
    name: str

    @property
    def shape(self) -> Shape:
        return self.checkpoint.manifest[self.name].shape

    def read(self, index: Index) -> Tensor:
        block = self.checkpoint.block(self.name, tuple(map(_range_around, index)))
        return TensorSource(block).read(tuple(map(_from_its_start, index)))


def _range_around(positions: Positions) -> range:
    if isinstance(positions, range):
        return positions
    return range(int(positions.min()), int(positions.max()) + 1) if len(positions) else range(0)


def _from_its_start(positions: Positions) -> Positions:
    if isinstance(positions, range):
        return range(len(positions))
    return positions - positions.min() if len(positions) else positions


def _moved(weight: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    return weight.to(device, dtype if weight.is_floating_point() else weight.dtype)


def _alone(part: Tensor, *, mmap: bool) -> Tensor:
    """A part in the order of its memory; a copy if it lies in more memory than its own, and may not."""
    part = part.contiguous()
    return part if mmap or part.untyped_storage().nbytes() == part.nbytes else part.clone()

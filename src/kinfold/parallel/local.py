"""What this rank has of a tensor that is spread; of any other it has the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from torch.distributed.tensor import DTensor

if TYPE_CHECKING:
    from kinfold.checkpoint.base import Block


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def part_of(tensor: Tensor) -> Block:
    """The positions that this rank has of a tensor along each of its dimensions, as torch itself gives them."""
    if not isinstance(tensor, DTensor):
        return tuple(map(range, tensor.shape))
    (chunk,) = tensor.__create_chunk_list__()
    return tuple(range(start, start + size) for start, size in zip(chunk.offsets, chunk.sizes, strict=True))


def own_part(placeholder: Tensor, whole: Tensor) -> Tensor:
    """What this rank has of a tensor, given the whole: of a DTensor a copy of its part, wrapped; else the whole."""
    if not isinstance(placeholder, DTensor):
        return whole
    part = whole[tuple(slice(positions.start, positions.stop) for positions in part_of(placeholder))]
    return spread_as(placeholder, part.clone())


def spread_as(placeholder: Tensor, part: Tensor) -> Tensor:
    """A part, wrapped as the placeholder is."""
    if not isinstance(placeholder, DTensor):
        return part
    return DTensor.from_local(
        part,
        placeholder.device_mesh,
        placeholder.placements,
        run_check=False,
        shape=placeholder.shape,
        stride=placeholder.stride(),
    )

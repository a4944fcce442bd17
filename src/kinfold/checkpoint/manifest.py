"""Names, shapes and dtypes of the tensors of a checkpoint or a model; no torch is needed for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

ITEMSIZES: Mapping[str, int] = {
    "bool": 1, "uint8": 1, "int8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "int64": 8, "uint64": 8,
    "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e8m0fnu": 1, "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1,
    "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex64": 8,
}  # fmt: skip
"""Bytes of one value, by the name of torch's dtype."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What is known of a tensor without reading it.

    Attributes:
        shape: Its shape.
        dtype: The dtype it has once read, as torch calls it without "torch.".
        stored: How it lies in the file: the same, or the name of a quantisation such as "Q4_1".
    """

    shape: tuple[int, ...]
    dtype: str
    stored: str

    @classmethod
    def of(cls, tensor: Tensor) -> TensorInfo:
        """What is to be known of a tensor in memory, or on the meta device."""
        dtype = str(tensor.dtype).removeprefix("torch.")
        return cls(tuple(tensor.shape), dtype, dtype)

    @property
    def numel(self) -> int:
        """The number of its values."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes it takes once read."""
        return self.numel * ITEMSIZES[self.dtype]


Manifest = Mapping[str, TensorInfo]
"""The tensors by name, in the order of the file or the model."""


def total_numel(manifest: Manifest) -> int:
    """How many values all tensors hold."""
    return sum(info.numel for info in manifest.values())


def state_dict_manifest(state_dict: Mapping[str, Tensor]) -> Manifest:
    """The names, shapes and dtypes of a state dict, in its order."""
    return {name: TensorInfo.of(tensor) for name, tensor in state_dict.items()}

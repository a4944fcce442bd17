"""Checkpoints in GGUF, the format of llama.cpp; the gguf package decodes what is quantised."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinfold.checkpoint.base import Checkpoint
from kinfold.checkpoint.gguf_header import GgufTensor, read_gguf_header
from kinfold.checkpoint.manifest import TensorInfo
from kinfold.checkpoint.mapping import map_privately, read_slice
from kinfold.errors import CheckpointError, UnsupportedError, nearest

if TYPE_CHECKING:
    from torch import Tensor

_PLAIN: Mapping[str, str] = {
    "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64", "I8": "int8", "I16": "int16",
    "I32": "int32", "I64": "int64",
}  # fmt: skip
"""Types that are stored as they are, to torch's dtypes; all others are quantised and decode to float32."""

_TOKENIZER = "tokenizer."


class GgufCheckpoint(Checkpoint):
    """A GGUF file.

    Attributes:
        tokenizer_metadata: What the file says of its tokenizer, keys as in the file.

    Raises:
        UnsupportedError: The gguf package is missing, or cannot decode some of the tensors.
        CheckpointError: The file is damaged; lists every fault.
    """

    layout = "gguf"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mapping: Tensor | None = None
        header = read_gguf_header(path)
        self.config = {key: value for key, value in header.metadata.items() if not key.startswith(_TOKENIZER)}
        self.tokenizer_metadata = {k: value for k, value in header.metadata.items() if k.startswith(_TOKENIZER)}
        self._tensors = header.tensors
        self._types = _decodable_types(path, header.tensors)
        self.manifest = {
            name: TensorInfo(tensor.shape, _PLAIN.get(kind := self._types[tensor.type].name, "float32"), kind)
            for name, tensor in header.tensors.items()
        }
        faults = self._extent_faults(header.file_size)
        if faults:
            raise CheckpointError(f"{path} is damaged:", faults=faults)

    def tensor(self, name: str, *, mmap: bool = True) -> Tensor:
        import torch
        from gguf.quants import dequantize

        if name not in self._tensors:
            raise CheckpointError(f"{self.path} has no tensor {name!r}.", hint=nearest(name, self._tensors))
        tensor, info = self._tensors[name], self.manifest[name]
        extent = (tensor.start, self._nbytes(tensor))
        if info.stored in _PLAIN:
            dtype = getattr(torch, info.dtype)
            return read_slice(self._bytes(), *extent, dtype, copy=not mmap).view(info.shape)
        rows = read_slice(self._bytes(), *extent, torch.uint8, copy=False).view(prod(info.shape[:-1]), -1)
        return torch.from_numpy(dequantize(rows.numpy(), self._types[tensor.type])).view(info.shape)

    def close(self) -> None:
        self._mapping = None

    def _bytes(self) -> Tensor:
        if self._mapping is None:
            self._mapping = map_privately(self.path)
        return self._mapping

    def _nbytes(self, tensor: GgufTensor) -> int:
        from gguf import GGML_QUANT_SIZES

        values, size = GGML_QUANT_SIZES[self._types[tensor.type]]
        return prod(tensor.shape) // values * size

    def _extent_faults(self, file_size: int) -> list[str]:
        """Tensors that do not lie within the file, or whose rows are no whole blocks."""
        from gguf import GGML_QUANT_SIZES

        faults = []
        for name, tensor in self._tensors.items():
            block = GGML_QUANT_SIZES[self._types[tensor.type]][0]
            if not tensor.shape or tensor.shape[-1] % block:
                faults.append(f"tensor {name} {tensor.shape}: rows are no multiple of {block} values")
            elif tensor.start + self._nbytes(tensor) > file_size:
                faults.append(f"tensor {name} {tensor.shape} ends after the file, which is cut off")
        return faults


def _decodable_types(path: Path, tensors: Mapping[str, GgufTensor]) -> dict[int, Any]:
    """The types of the tensors as the gguf package calls them, each of which it can decode."""
    try:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
        from gguf.quants import dequantize
    except ImportError as error:
        raise UnsupportedError(f"{path} is a GGUF file.", hint="To read it: pip install 'kinfold[gguf]'") from error
    import torch

    types, faults = {}, []
    for number in sorted({tensor.type for tensor in tensors.values()}):
        try:
            kind = GGMLQuantizationType(number)
            if kind.name not in _PLAIN:
                dequantize(torch.zeros(1, GGML_QUANT_SIZES[kind][1], dtype=torch.uint8).numpy(), kind)
            types[number] = kind
        except (ValueError, KeyError, NotImplementedError) as error:
            names = [name for name, tensor in tensors.items() if tensor.type == number]
            faults.append(f"type {number} of {names[0]} and {len(names) - 1} more: {error}")
    if faults:
        raise UnsupportedError(f"{path} has tensors that cannot be decoded:", faults=faults)
    return types

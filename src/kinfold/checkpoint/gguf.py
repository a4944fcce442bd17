"""Checkpoints in GGUF, the format of llama.cpp, through the gguf package."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinfold.checkpoint.base import Checkpoint
from kinfold.checkpoint.manifest import TensorInfo
from kinfold.errors import CheckpointError, UnsupportedError, nearest

if TYPE_CHECKING:
    from torch import Tensor

_PLAIN: Mapping[str, str] = {
    "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64", "I8": "int8", "I16": "int16",
    "I32": "int32", "I64": "int64",
}  # fmt: skip
"""Types that are stored as they are, to torch's dtypes; all others are quantised and decode to float32."""

TOKENIZER = "tokenizer."


class GgufCheckpoint(Checkpoint):
    """A GGUF file.

    Raises:
        UnsupportedError: The gguf package is missing, or does not know how to decode some of the tensors.
        CheckpointError: The file is damaged.
    """

    layout = "gguf"

    def __init__(self, path: Path) -> None:
        try:
            from gguf import GGUFReader
        except ImportError as error:
            raise UnsupportedError(f"{path} is a GGUF file.", hint="To read it: pip install 'kinfold[gguf]'") from error
        self.path = path
        try:
            self._reader = GGUFReader(path, "c")  # copy on write: the file is never changed
        except Exception as error:  # the package raises whatever numpy and its own checks run into
            raise CheckpointError(f"{path} is damaged: {type(error).__name__}: {error}") from error
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self.manifest = {}
        for name, tensor in self._tensors.items():
            stored = tensor.tensor_type.name
            shape = tuple(int(size) for size in reversed(tensor.shape))  # GGUF has the fastest dimension first
            self.manifest[name] = TensorInfo(shape, _PLAIN.get(stored, "float32"), stored)
        self._refuse_unknown_types()

    @cached_property
    def config(self) -> Mapping[str, Any]:  # pyright: ignore
        """The metadata, keys as in the file, without those of the tokenizer."""
        return {name: field.contents() for name, field in self._fields(tokenizer=False).items()}

    @cached_property
    def tokenizer_metadata(self) -> Mapping[str, Any]:
        """The metadata of the tokenizer."""
        return {name: field.contents() for name, field in self._fields(tokenizer=True).items()}

    def tensor(self, name: str, *, mmap: bool = True) -> Tensor:
        import torch
        from gguf.quants import dequantize

        if name not in self._tensors:
            raise CheckpointError(f"{self.path} has no tensor {name!r}.", hint=nearest(name, self._tensors))
        tensor, info = self._tensors[name], self.manifest[name]
        if info.stored not in _PLAIN:
            return torch.from_numpy(dequantize(tensor.data, tensor.tensor_type)).view(info.shape)
        raw = torch.from_numpy(tensor.data).view(getattr(torch, info.dtype)).view(info.shape)
        return raw if mmap else raw.clone()

    def _fields(self, *, tokenizer: bool) -> dict[str, Any]:
        return {
            name: field
            for name, field in self._reader.fields.items()
            if name.startswith(TOKENIZER) == tokenizer and not name.startswith("GGUF.")
        }

    def _refuse_unknown_types(self) -> None:
        from gguf.quants import _type_traits

        known = {*_PLAIN, *(kind.name for kind in _type_traits)}
        unknown = [f"{name}: {info.stored}" for name, info in self.manifest.items() if info.stored not in known]
        if unknown:
            raise UnsupportedError(f"{self.path} has tensors of types that cannot be decoded:", faults=unknown)

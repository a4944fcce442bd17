"""safetensors files: read bit for bit, mapped, never changed; what is damaged or unsafe is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from kinfold.checkpoint import open_checkpoint
from kinfold.errors import CheckpointError

DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16,
    torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2,
]  # fmt: skip


def write(path: Path, header: Any, data: bytes = b"") -> Path:
    """A file with this header, JSON or bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(dtype: str = "F32", shape: tuple[int, ...] = (2,), start: int = 0, end: int = 8) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


@pytest.mark.parametrize("mmap", [True, False])
def test_every_dtype_bit_for_bit(tmp_path: Path, mmap: bool) -> None:
    tensors = {str(dtype): torch.randint(0, 2, (3, 5)).to(dtype) for dtype in DTYPES}
    tensors |= {"scalar": torch.tensor(1.5), "empty": torch.empty(0, 4)}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.manifest.keys() == tensors.keys()
        for name, tensor in tensors.items():
            read = checkpoint.tensor(name, mmap=mmap)
            assert (read.dtype, read.shape) == (tensor.dtype, tensor.shape)
            assert checkpoint.manifest[name].nbytes == tensor.nbytes
            assert torch.equal(read.flatten().view(torch.uint8), tensor.flatten().view(torch.uint8))


def test_what_is_mapped_is_shared_and_never_written_back(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(1000), "b": torch.ones(1000)}, path)
    before = path.read_bytes()
    with open_checkpoint(path) as checkpoint:
        a, b = checkpoint.tensor("a"), checkpoint.tensor("b")
        copied = checkpoint.tensor("a", mmap=False)
    assert a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
    assert copied.untyped_storage().data_ptr() != a.untyped_storage().data_ptr()
    a.fill_(7)
    assert path.read_bytes() == before
    assert not copied.any()


def test_offsets_need_not_be_aligned(tmp_path: Path) -> None:
    data = b"\x01" + torch.tensor([1.5, -2.0]).numpy().tobytes()
    header = {"flag": entry("BOOL", (1,), 0, 1), "x": entry("F32", (2,), 1, 9)}
    checkpoint = open_checkpoint(write(tmp_path / "model.safetensors", header, data))
    assert checkpoint.tensor("x").tolist() == [1.5, -2.0]


@pytest.mark.parametrize(
    ("header", "data", "said"),
    [
        (b'{"a": {}, "a": {}}', b"", "the key 'a' stands twice"),
        (b"[1]", b"", "holds no table"),
        (b"{", b"", "is no JSON"),
        (b"\xff\xfe", b"", "is no JSON"),
        (b"[" * 100_000, b"", "is no JSON"),
        ({"a": {"dtype": "F32"}}, b"", "needs dtype, shape and data_offsets"),
        ({"a": entry("F31")}, b"\0" * 8, "'F31' is not known"),
        ({"a": entry(shape=(-2,))}, b"\0" * 8, "must be counts"),
        ({"a": entry(start=8, end=0)}, b"\0" * 8, "must be counts"),
        ({"a": entry(shape=(3,))}, b"\0" * 8, "takes 12 bytes, not 8"),
        ({"a": entry(), "b": entry(start=4, end=12)}, b"\0" * 12, "'b' overlaps 'a'"),
        ({"a": entry(), "b": entry(start=12, end=20)}, b"\0" * 20, "leaves a gap of 4 bytes"),
        ({"a": entry()}, b"\0" * 4, "cut off"),
        ({"a": entry()}, b"\0" * 9, "has more at its end"),
    ],
)
def test_damaged_headers_are_refused(tmp_path: Path, header: Any, data: bytes, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        open_checkpoint(write(tmp_path / "model.safetensors", header, data))


@pytest.mark.parametrize("content", [b"", b"\0" * 7, (10**12).to_bytes(8, "little"), b"\x08" + b"\0" * 7 + b"{"])
def test_files_that_are_cut_off_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="cut off"):
        open_checkpoint(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="no regular file"):
        open_checkpoint(tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(place=st.integers(0, 300), value=st.integers(0, 255), cut=st.integers(0, 400))
def test_no_damage_gives_another_error(tmp_path: Path, place: int, value: int, cut: int) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a.weight": torch.zeros(3, 4), "b": torch.zeros(5, dtype=torch.int64)}, path)
    content = bytearray(path.read_bytes())
    content[min(place, len(content) - 1)] = value
    path.write_bytes(content[: len(content) - cut] if cut < len(content) else content)
    try:
        checkpoint = open_checkpoint(path)
    except CheckpointError:
        return
    for name in checkpoint.manifest:
        checkpoint.tensor(name)


def test_a_tensor_that_is_not_there(tmp_path: Path) -> None:
    save_file({"a.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"Did you mean 'a\.weight'"):
        open_checkpoint(tmp_path).tensor("a.weigth")

"""Folders of torch.distributed.checkpoint: what torch writes is read, what is written torch reads."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from kinfold.checkpoint import Extent, Manifest, TensorInfo, open_checkpoint
from kinfold.checkpoint.dcp import write_dcp
from kinfold.errors import CheckpointError

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

TENSORS = {
    "decoder.layers.0.weight": torch.randn(6, 4, generator=torch.Generator().manual_seed(0)),
    "half": torch.ones(3).bfloat16(),
    "small": torch.tensor([1.0, 2.0]).to(torch.float8_e4m3fn),
    "scalar": torch.tensor(5),
    "flags": torch.tensor([True, False]),
}


class InMemory:
    """Tensors as something that can be written; notes the order in which they are fetched."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = tensors
        self.fetched: list[str] = []

    @property
    def manifest(self) -> Manifest:
        dtypes = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in self.tensors.items()}
        return {name: TensorInfo(tuple(t.shape), dtypes[name], dtypes[name]) for name, t in self.tensors.items()}

    def tensor(self, name: str) -> torch.Tensor:
        self.fetched.append(name)
        return self.tensors[name]

    def extent(self, name: str) -> Extent | None:
        return None


def write_with_torch(folder: Path, saved: dict[str, Any]) -> Path:
    save(saved, storage_writer=FileSystemWriter(folder), no_dist=True)
    return folder


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def change(folder: Path, edit: Callable[[Any], None]) -> None:
    """Write other metadata."""
    metadata = FileSystemReader(folder).read_metadata()
    edit(metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "optim": {"state": {0: {"mean": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}},
        lambda state: {"app": {"model": state, "step": 3}},
    ],
)
def test_what_torch_wrote_is_read(tmp_path: Path, wrap: Callable[..., Any]) -> None:
    with open_checkpoint(write_with_torch(tmp_path / "x", wrap(TENSORS))) as checkpoint:
        assert checkpoint.layout == "dcp"
        assert checkpoint.manifest == InMemory(TENSORS).manifest
        for name, tensor in TENSORS.items():
            read = checkpoint.tensor(name)
            assert (read.dtype, read.shape) == (tensor.dtype, tensor.shape)
            assert torch.equal(bits(read), bits(tensor))
        with pytest.raises(CheckpointError, match="has no tensor 'hal'"):
            checkpoint.tensor("hal")


@pytest.mark.parametrize("max_file_size", [1, 60, 10**9])
def test_what_is_written_torch_reads(tmp_path: Path, max_file_size: int) -> None:
    sizes: list[int] = []
    source = InMemory({**TENSORS, "view": torch.arange(100.0)[10:20].view(2, 5)})
    write_dcp(tmp_path / "x", source, max_file_size=max_file_size, wrote=sizes.append)
    assert sorted(source.fetched) == sorted(source.tensors)  # each of them once
    assert sum(sizes) == sum(info.nbytes for info in source.manifest.values())
    into = {name: torch.zeros_like(tensor) for name, tensor in source.tensors.items()}
    load(into, storage_reader=FileSystemReader(tmp_path / "x"), no_dist=True)
    assert all(torch.equal(bits(into[name]), bits(tensor)) for name, tensor in source.tensors.items())
    dcp_to_torch_save(tmp_path / "x", tmp_path / "x.pt")
    assert torch.load(tmp_path / "x.pt").keys() == source.tensors.keys()


def test_metadata_that_run_code_are_refused(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (f"touch {tmp_path / 'it_ran'}",)

    folder = write_with_torch(tmp_path / "x", TENSORS)
    (folder / ".metadata").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(CheckpointError, match=r"asks for posix\.system, which may run code"):
        open_checkpoint(folder)
    assert not (tmp_path / "it_ran").exists()


@pytest.mark.parametrize("content", [b"", b"junk", pickle.dumps({"a": 1}), pickle.dumps(None)])
def test_metadata_that_are_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".metadata").write_bytes(content)
    with pytest.raises(CheckpointError, match="metadata"):
        open_checkpoint(tmp_path)


def test_files_outside_the_folder_and_missing_ones(tmp_path: Path) -> None:
    folder = write_with_torch(tmp_path / "x", TENSORS)

    def lead_astray(metadata: Any) -> None:
        for number, info in enumerate(metadata.storage_data.values()):
            info.relative_path = "../secret" if number else "gone"

    change(folder, lead_astray)
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(folder)
    assert error.value.faults == ("'../secret' is no name of a file in the folder", "'gone' is missing")


def test_a_tensor_that_its_chunks_leave_open_is_refused(tmp_path: Path) -> None:
    folder = write_with_torch(tmp_path / "x", TENSORS)

    def leave_open(metadata: Any) -> None:
        stored = metadata.state_dict_metadata["decoder.layers.0.weight"]
        stored.chunks = [ChunkStorageMetadata(torch.Size([0, 0]), torch.Size([3, 4]))]

    change(folder, leave_open)
    with pytest.raises(CheckpointError, match=r"decoder\.layers\.0\.weight: its chunks do not make up \(6, 4\)"):
        open_checkpoint(folder)


def test_a_file_that_is_cut_off(tmp_path: Path) -> None:
    folder = write_with_torch(tmp_path / "x", TENSORS)
    (folder / "__0_0.distcp").write_bytes(b"")
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_checkpoint(folder).tensor("half")


def test_an_error_while_a_tensor_is_fetched_is_that_error(tmp_path: Path) -> None:
    class Failing(InMemory):
        def tensor(self, name: str) -> torch.Tensor:
            raise CheckpointError("no such luck")

    with pytest.raises(CheckpointError, match="no such luck"):
        write_dcp(tmp_path / "x", Failing(TENSORS), max_file_size=100)
    assert not (tmp_path / "x" / ".metadata").exists()

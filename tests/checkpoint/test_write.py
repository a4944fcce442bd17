"""Shards as transformers and the safetensors package read them, planned beforehand and written in pieces."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from huggingface_hub import split_torch_state_dict_into_shards
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from kinfold.checkpoint import Extent, Manifest, TensorInfo, open_checkpoint
from kinfold.checkpoint import write as writing
from kinfold.checkpoint.shards import parse_size, plan_shards
from kinfold.checkpoint.write import write_safetensors
from kinfold.errors import CheckpointError

TENSORS = {
    "flag": torch.tensor([True, False, True]),
    "half": torch.randn(30, 4).bfloat16(),
    "scalar": torch.tensor(2.0),
    "small": torch.randn(5).to(torch.float8_e4m3fn),
    "wide": torch.randn(3, 3).double(),
    "empty": torch.empty(0, 3),
    "ünïcode": torch.arange(4),
    "transposed": torch.arange(12.0).view(3, 4).t(),
}


class InMemory:
    """Tensors as something that can be written."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = tensors

    @property
    def manifest(self) -> Manifest:
        dtypes = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in self.tensors.items()}
        return {name: TensorInfo(tuple(t.shape), dtypes[name], dtypes[name]) for name, t in self.tensors.items()}

    def tensor(self, name: str) -> torch.Tensor:
        return self.tensors[name]

    def extent(self, name: str) -> Extent | None:
        return None


def write(folder: Path, tensors: dict[str, torch.Tensor], size: int | str) -> Path:
    source = InMemory(tensors)
    write_safetensors(folder, plan_shards(source.manifest, size), source)
    return folder


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


def test_one_file_as_the_safetensors_package_reads_it(tmp_path: Path) -> None:
    write(tmp_path / "x", TENSORS, "5GB")
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["model.safetensors"]
    assert_same(load_file(tmp_path / "x" / "model.safetensors"), TENSORS)
    with safe_open(tmp_path / "x" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_every_tensor_is_aligned_so_that_it_can_stay_mapped(tmp_path: Path) -> None:
    with open_checkpoint(write(tmp_path / "x", TENSORS, "5GB")) as checkpoint:
        for name, info in checkpoint.manifest.items():
            extent = checkpoint.extent(name)
            assert extent is not None
            assert extent.start % getattr(torch, info.dtype).itemsize == 0


@pytest.mark.parametrize("size", [1, 100, 250, "0.3KB"])
def test_shards_and_their_index(tmp_path: Path, size: int | str) -> None:
    folder = write(tmp_path / "x", TENSORS, size)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in TENSORS.values())
    for name, file in index["weight_map"].items():
        assert name in load_file(folder / file)
    with open_checkpoint(folder) as checkpoint:
        assert_same({name: checkpoint.tensor(name) for name in checkpoint.manifest}, TENSORS)


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    limit=st.integers(1, 200),
)
def test_shards_are_planned_as_huggingface_plans_them(lengths: list[int], limit: int) -> None:
    tensors = {f"t{number}": torch.zeros(length, dtype=torch.uint8) for number, length in enumerate(lengths)}
    shards = plan_shards(InMemory(tensors).manifest, limit)
    assert [name for shard in shards for name in shard.manifest] == list(tensors)
    assert all(shard.nbytes <= limit or len(shard.manifest) == 1 for shard in shards)
    theirs = split_torch_state_dict_into_shards(tensors, max_shard_size=limit)
    if max(lengths) <= limit:  # theirs moves what is larger than a file to the end
        found = {shard.file: list(shard.manifest) for shard in shards}
        assert found == {name: list(names) for name, names in theirs.filename_to_tensors.items()}


@pytest.mark.parametrize(
    ("size", "count"), [(7, 7), ("7", 7), ("5GB", 5 * 10**9), ("200 mb", 2 * 10**8), ("1.5KB", 1500), ("1GiB", 2**30)]
)
def test_sizes(size: int | str, count: int) -> None:
    assert parse_size(size) == count


@pytest.mark.parametrize("size", ["", "GB", "-1", 0, "5 apples", "1e9", "0.1B"])
def test_sizes_that_are_none(size: int | str) -> None:
    with pytest.raises(CheckpointError, match="is no size of a file"):
        parse_size(size)


def test_what_cannot_be_written_is_said_before_anything_is() -> None:
    wrong = {"a": TensorInfo((2,), "complex128", "complex128"), "__metadata__": TensorInfo((1,), "uint8", "uint8")}
    with pytest.raises(CheckpointError) as error:
        plan_shards(wrong, "5GB")
    assert len(error.value.faults) == 2


def test_files_that_are_complete_stay_and_others_are_written_anew(tmp_path: Path) -> None:
    folder = write(tmp_path / "x", TENSORS, 100)
    shards = sorted(folder.glob("*.safetensors"))
    before = {path.name: path.read_bytes() for path in shards}
    kept, cut, gone = shards[0], shards[1], shards[2]
    kept_file = kept.stat().st_ino
    cut.write_bytes(before[cut.name][:-1])
    gone.rename(gone.with_name(f"{gone.name}.partial"))
    written: list[int] = []
    source = InMemory(TENSORS)
    write_safetensors(folder, plan_shards(source.manifest, 100), source, wrote=written.append)
    assert {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))} == before
    assert kept.stat().st_ino == kept_file
    assert sum(written) == sum(tensor.nbytes for tensor in TENSORS.values())


def test_tensors_that_stay_are_copied_from_file_to_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_PIECE", 7)
    save_file({name: tensor.contiguous() for name, tensor in TENSORS.items()}, tmp_path / "x.safetensors")
    with open_checkpoint(tmp_path / "x.safetensors") as checkpoint:
        monkeypatch.setattr(checkpoint, "tensor", None)  # none is read
        write_safetensors(tmp_path / "y", plan_shards(checkpoint.manifest, "1KB"), checkpoint)
    assert_same(load_file(tmp_path / "y" / "model.safetensors"), TENSORS)


def test_where_the_kernel_does_not_copy_between_files_tensors_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.EXDEV, "other file system")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    save_file({name: tensor.contiguous() for name, tensor in TENSORS.items()}, tmp_path / "x.safetensors")
    with open_checkpoint(tmp_path / "x.safetensors") as checkpoint:
        write_safetensors(tmp_path / "y", plan_shards(checkpoint.manifest, "1KB"), checkpoint)
    assert_same(load_file(tmp_path / "y" / "model.safetensors"), TENSORS)


def test_a_source_that_is_cut_off_meanwhile_is_an_error_and_not_the_end_of_the_process(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(100_000)}, tmp_path / "x.safetensors")
    with open_checkpoint(tmp_path / "x.safetensors") as checkpoint:
        os.truncate(tmp_path / "x.safetensors", 1000)
        with pytest.raises(CheckpointError, match="was cut off while a was read"):
            write_safetensors(tmp_path / "y", plan_shards(checkpoint.manifest, "5GB"), checkpoint)
    assert not (tmp_path / "y" / "model.safetensors").exists()


def test_a_tensor_that_is_not_what_was_planned(tmp_path: Path) -> None:
    shards = plan_shards({"a": TensorInfo((3,), "float32", "float32")}, "5GB")
    with pytest.raises(CheckpointError, match=r"a is torch\.float64 \(3,\), where float32 \(3,\) was expected"):
        write_safetensors(tmp_path / "x", shards, InMemory({"a": torch.zeros(3).double()}))
    assert not (tmp_path / "x" / "model.safetensors").exists()

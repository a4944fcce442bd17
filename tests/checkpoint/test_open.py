"""What a checkpoint is, and which file of a folder it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from kinfold.checkpoint import open_checkpoint
from kinfold.errors import CheckpointError

ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def shards(folder: Path, weight_map: dict[str, str], **files: dict[str, torch.Tensor]) -> Path:
    """A folder with an index and these shards."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, tensors in files.items():
        save_file(tensors, folder / {"one": ONE, "two": TWO}[name])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


A, B = {"a": torch.zeros(2)}, {"b": torch.ones(3)}


def test_shards(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(shards(tmp_path, {"a": ONE, "b": TWO}, one=A, two=B))
    assert {name: info.shape for name, info in checkpoint.manifest.items()} == {"a": (2,), "b": (3,)}
    assert checkpoint.tensor("b").tolist() == [1, 1, 1]
    assert checkpoint.config == {}


def test_a_key_in_two_shards(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="tensor a is in two files"):
        open_checkpoint(shards(tmp_path, {"a": ONE, "b": TWO}, one=A, two=A | B))


def test_an_index_that_disagrees_with_its_shards(tmp_path: Path) -> None:
    folder = shards(tmp_path, {"a": TWO, "c": ONE}, one=A, two=B)
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(folder)
    assert error.value.faults == (
        f"the index lists a in {TWO}, which does not hold it",
        f"the index lists c in {ONE}, which does not hold it",
        f"{TWO} holds b, which the index does not list",
    )


def test_shards_outside_the_folder_and_missing_ones(tmp_path: Path) -> None:
    save_file(A, tmp_path / "secret.safetensors")
    weight_map = {"a": "../secret.safetensors", "b": str(tmp_path / "secret.safetensors"), "c": TWO, "d": ".."}
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(shards(tmp_path / "model", weight_map))
    assert len(error.value.faults) == 4


def test_the_cache_of_hugging_face_links_to_blobs(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    save_file(A, blobs / "0123")
    (blobs / "4567").write_text('{"vocab_size": 3}')
    (snapshot / "model.safetensors").symlink_to("../../blobs/0123")
    (snapshot / "config.json").symlink_to("../../blobs/4567")
    checkpoint = open_checkpoint(snapshot)
    assert checkpoint.config == {"vocab_size": 3}
    assert checkpoint.tensor("a").tolist() == [0, 0]


def test_an_index_goes_before_a_single_file_and_references_are_passed_over(tmp_path: Path) -> None:
    folder = shards(tmp_path, {"a": ONE}, one=A)
    save_file(B, folder / "model.safetensors")
    save_file(B, folder / "reference.safetensors")
    assert list(open_checkpoint(folder).manifest) == ["a"]
    (folder / "model.safetensors.index.json").unlink()
    assert list(open_checkpoint(folder).manifest) == ["b"]
    (folder / "model.safetensors").unlink()
    assert list(open_checkpoint(folder).manifest) == ["a"]
    save_file(B, folder / "another.safetensors")
    with pytest.raises(CheckpointError, match="2 safetensors files and no"):
        open_checkpoint(folder)


@pytest.mark.parametrize("config", ['{"a": 1, "a": 2}', "{", "[]"])
def test_a_damaged_config(tmp_path: Path, config: str) -> None:
    save_file(A, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        open_checkpoint(tmp_path)


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    for path, said in (
        (tmp_path / "absent", "does not exist"),
        (tmp_path / "notes.txt", "no checkpoint that can be read"),
        (tmp_path, "no safetensors file"),
        (Path("/dev/null"), "neither a file nor a folder"),
    ):
        with pytest.raises(CheckpointError, match=said):
            open_checkpoint(path)


def test_opening_needs_no_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    save_file(A, tmp_path / "model.safetensors")
    code = (
        "import sys; from kinfold.checkpoint import open_checkpoint; "
        f"assert open_checkpoint({str(tmp_path)!r}).manifest['a'].shape == (2,); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

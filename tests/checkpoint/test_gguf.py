"""GGUF files, written by the gguf package and read as it reads them."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kinfold.checkpoint import open_checkpoint
from kinfold.checkpoint.gguf import GgufCheckpoint
from kinfold.errors import CheckpointError

QUANTISED = [Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1]
WEIGHT = np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32)


def write(path: Path) -> Path:
    """A small file with every kind of metadata and of tensor."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(3)
    writer.add_rope_freq_base(10000.0)
    writer.add_bool("llama.flag", True)
    writer.add_array("llama.widths", [1, 2, 3])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "ü", "🙂"])
    writer.add_tensor("plain.weight", WEIGHT)
    writer.add_tensor("half.weight", WEIGHT.astype(np.float16))
    for kind in (Kind.BF16, *QUANTISED):
        writer.add_tensor(f"{kind.name}.weight", quantize(WEIGHT, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("gguf") / "tiny.bin")


@pytest.mark.parametrize("kind", QUANTISED)
def test_quantised_tensors_are_decoded(path: Path, kind: Kind) -> None:
    checkpoint = open_checkpoint(path)
    info = checkpoint.manifest[f"{kind.name}.weight"]
    assert (info.shape, info.dtype, info.stored) == ((6, 64), "float32", kind.name)
    expected = torch.from_numpy(dequantize(quantize(WEIGHT, kind), kind))
    assert torch.equal(checkpoint.tensor(f"{kind.name}.weight"), expected)


@pytest.mark.parametrize("mmap", [True, False])
def test_plain_tensors_are_as_they_are(path: Path, mmap: bool) -> None:
    checkpoint = open_checkpoint(path)
    assert torch.equal(checkpoint.tensor("plain.weight", mmap=mmap), torch.from_numpy(WEIGHT))
    assert torch.equal(checkpoint.tensor("half.weight", mmap=mmap), torch.from_numpy(WEIGHT).half())
    assert torch.equal(checkpoint.tensor("BF16.weight", mmap=mmap), torch.from_numpy(WEIGHT).bfloat16())


def test_metadata_is_what_the_package_reads(path: Path) -> None:
    checkpoint = open_checkpoint(path)
    assert isinstance(checkpoint, GgufCheckpoint)
    fields = gguf.GGUFReader(path).fields
    expected = {name: field.contents() for name, field in fields.items() if not name.startswith("GGUF.")}
    assert {**checkpoint.config, **checkpoint.tokenizer_metadata} == expected
    assert list(checkpoint.tokenizer_metadata) == ["tokenizer.ggml.model", "tokenizer.ggml.tokens"]


def test_the_file_is_never_written(path: Path) -> None:
    before = path.read_bytes()
    open_checkpoint(path).tensor("plain.weight").zero_()
    assert path.read_bytes() == before


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(data=st.data())
def test_no_damage_gives_another_error(path: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, 1200))] = data.draw(st.integers(0, 255))
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(content[: data.draw(st.integers(4, len(content)))])
    try:
        checkpoint = open_checkpoint(damaged)
    except CheckpointError:
        return
    for name in checkpoint.manifest:
        checkpoint.tensor(name)


def test_a_file_that_is_cut_off(path: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(path.read_bytes()[:-64])
    with pytest.raises(CheckpointError, match="cut off"):
        open_checkpoint(cut)


def test_counts_that_do_not_fit_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    hostile = tmp_path / "hostile.gguf"
    hostile.write_bytes(b"GGUF" + (3).to_bytes(4, "little") + (2**60).to_bytes(8, "little") * 2)
    with pytest.raises(CheckpointError, match="do not fit in the file"):
        open_checkpoint(hostile)

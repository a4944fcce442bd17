"""What torch has pickled: read as torch reads it, found by its structure, and never run."""

from __future__ import annotations

import json
import os
import zipfile
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kinfold.checkpoint import open_checkpoint
from kinfold.errors import CheckpointError, UnsupportedError

W = torch.arange(12.0).view(3, 4)
ZIP, LEGACY = True, False


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str = "false") -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


def save(path: Path, saved: Any, *, zipped: bool = ZIP) -> Path:
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    return path


def assert_holds(path: Path, expected: dict[str, torch.Tensor]) -> None:
    """A checkpoint has these tensors, mapped or copied, and each has its memory for itself."""
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.layout == "pickle"
        assert list(checkpoint.manifest) == list(expected)
        for mmap in (True, False):
            read = {name: checkpoint.tensor(name, mmap=mmap) for name in expected}
            for name, tensor in expected.items():
                info = checkpoint.manifest[name]
                assert (info.shape, info.dtype) == (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
                assert (read[name].shape, read[name].dtype) == (tensor.shape, tensor.dtype)
                assert read[name].is_contiguous()
                assert not read[name].requires_grad
                assert torch.equal(read[name], tensor)
            places = [tensor.data_ptr() for tensor in read.values() if tensor.numel()]
            assert len(set(places)) == len(places)


@pytest.mark.parametrize("zipped", [ZIP, LEGACY])
def test_shared_storages_views_and_strides_come_out_right(tmp_path: Path, zipped: bool) -> None:
    big = torch.arange(100.0)
    tensors = {
        "plain": W,
        "tied": W,
        "view": big[10:20],
        "other_view": big[15:30].view(3, 5),
        "transposed": W.t(),
        "expanded": torch.ones(1, 4).expand(3, 4),
        "parameter": torch.nn.Parameter(W + 1),
        "half": W.bfloat16(),
        "flag": torch.tensor([True, False]),
        "empty": torch.empty(0, 4),
        "scalar": torch.tensor(2),
        "conjugate": torch.tensor([1 + 2j]).conj(),
    }
    assert_holds(save(tmp_path / "model.pt", tensors, zipped=zipped), tensors)


@pytest.mark.parametrize("zipped", [ZIP, LEGACY])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "args": Namespace(lr=1e-4), "last_optimizer_state": None},
        lambda state: {"state_dict": state, "epoch": 3, "rng": torch.get_rng_state(), "best": torch.tensor(0.5)},
        lambda state: {"module": state, "optimizer": torch.optim.Adam([torch.nn.Parameter(W)]).state_dict()},
        lambda state: {"checkpoint": {"inner": {"net": state}}, "config": {"width": 4}},
    ],
)
def test_the_state_dict_is_found_by_its_structure(tmp_path: Path, wrap: Callable[..., Any], zipped: bool) -> None:
    state = OrderedDict(w=W, b=torch.ones(4))
    assert_holds(save(tmp_path / "model.ckpt", wrap(state), zipped=zipped), dict(state))


def test_the_state_of_an_optimizer_is_no_candidate(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(W)
    optimizer = torch.optim.Adam([parameter])
    parameter.sum().backward()
    optimizer.step()
    assert_holds(save(tmp_path / "x.pt", {"net": {"w": W}, "optim": optimizer.state_dict()}), {"w": W})


def test_several_candidates_are_named(tmp_path: Path) -> None:
    path = save(tmp_path / "x.pt", {"model": {"w": W}, "averaged": {"shadow": {"w": W}}})
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(path)
    assert error.value.faults == (
        "'model': 1 entries, such as w",
        "'averaged.shadow': 1 entries, such as w",
    )


@pytest.mark.parametrize("saved", [[W], W, {"a": 1}, {"model": {}}, {}, Namespace(w=W)])
def test_nothing_to_be_found(tmp_path: Path, saved: Any) -> None:
    with pytest.raises(CheckpointError, match=r"no(t a)? mapping"):
        open_checkpoint(save(tmp_path / "x.pt", saved))


def test_what_may_be_a_weight_is_a_fault_and_what_cannot_be_is_passed_over(tmp_path: Path) -> None:
    harmless = {"version": 3, "name": "x", "none": None, "x._extra_state": {"scale": 1.0}, "config": {"a": 1.5}}
    assert_holds(save(tmp_path / "a.pt", {"w": W, **harmless}), {"w": W})
    doubtful = {"alpha": 0.5, "list": [W], "scales": [1.0, 2.0]}
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(save(tmp_path / "b.pt", {"w": W, **doubtful}))
    assert [fault.partition(":")[0] for fault in error.value.faults] == list(doubtful)
    with pytest.raises(CheckpointError, match="the key 7 of a tensor is no text"):
        open_checkpoint(save(tmp_path / "c.pt", {"w": W, 7: W}))


def test_a_mapping_that_holds_itself(tmp_path: Path) -> None:
    saved: dict[str, Any] = {"model": {"w": W}}
    saved["self"] = saved
    assert_holds(save(tmp_path / "x.pt", saved), {"w": W})


@pytest.mark.parametrize("zipped", [ZIP, LEGACY])
def test_code_is_refused_by_name_and_not_run(tmp_path: Path, zipped: bool) -> None:
    trace = tmp_path / "it_ran"
    saved = {"model": {"w": W}, "payload": Hostile(f"touch {trace}")}
    with pytest.raises(CheckpointError, match="may run code") as error:
        open_checkpoint(save(tmp_path / "x.bin", saved, zipped=zipped))
    assert error.value.faults == (f"{os.system.__module__}.system",)
    assert "weights_only" not in str(error.value)
    assert not trace.exists()


def test_every_forbidden_name_is_listed(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(save(tmp_path / "x.pt", {"w": W, "a": Hostile(), "b": Path("x"), "c": zipfile.ZipInfo("x")}))
    assert {"posix.system", "zipfile.ZipInfo"} <= set(error.value.faults)


def test_the_environment_cannot_make_it_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    trace = tmp_path / "it_ran"
    with pytest.raises(CheckpointError):
        open_checkpoint(save(tmp_path / "x.pt", {"w": W, "payload": Hostile(f"touch {trace}")}))
    assert not trace.exists()


def test_what_is_allowed_for_one_file_is_not_allowed_afterwards(tmp_path: Path) -> None:
    path = save(tmp_path / "x.pt", {"model": {"w": W}, "args": Namespace(a=1)})
    open_checkpoint(path)
    with pytest.raises(Exception, match="Namespace"):
        torch.load(path, weights_only=True)


@pytest.mark.parametrize("zipped", [ZIP, LEGACY])
def test_the_file_is_never_written(tmp_path: Path, zipped: bool) -> None:
    path = save(tmp_path / "x.pt", {"w": W.clone()}, zipped=zipped)
    before = path.read_bytes()
    with torch.serialization.set_default_mmap_options(1):  # MAP_SHARED
        open_checkpoint(path).tensor("w").zero_()
    assert path.read_bytes() == before


def test_a_zip_file_that_was_compressed_anew(tmp_path: Path) -> None:
    path = save(tmp_path / "x.pt", {"w": W})
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "y.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.namelist():
            new.writestr(entry, old.read(entry))
    assert_holds(tmp_path / "y.pt", {"w": W})


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_programs_sparse_tensors_and_tensors_without_values(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "program.pt"))
    with pytest.raises(UnsupportedError, match="TorchScript"):
        open_checkpoint(tmp_path / "program.pt")
    with pytest.raises(UnsupportedError, match="sparse"):
        open_checkpoint(save(tmp_path / "sparse.pt", {"w": W.to_sparse()}))
    checkpoint = open_checkpoint(save(tmp_path / "meta.pt", {"w": torch.empty(2, 2, device="meta")}))
    with pytest.raises(CheckpointError, match="without its values"):
        checkpoint.tensor("w")


def test_shards_with_an_index(tmp_path: Path) -> None:
    one, two = "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"
    save(tmp_path / one, {"a": W})
    save(tmp_path / two, {"b": W + 1}, zipped=LEGACY)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": one, "b": two}}))
    (tmp_path / "config.json").write_text('{"model_type": "x"}')
    assert_holds(tmp_path, {"a": W, "b": W + 1})
    assert open_checkpoint(tmp_path).config == {"model_type": "x"}
    index.write_text(json.dumps({"weight_map": {"a": two, "b": two, "c": one}}))
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(tmp_path)
    assert error.value.faults == (
        f"a: in {one}, according to the index in {two}",
        f"c: in none, according to the index in {one}",
    )
    save(tmp_path / two, {"a": W})
    with pytest.raises(CheckpointError, match="tensor a is in two files"):
        open_checkpoint(tmp_path)


def test_one_file_in_a_folder_and_safetensors_before_it(tmp_path: Path) -> None:
    save(tmp_path / "pytorch_model.bin", {"a": W})
    assert_holds(tmp_path, {"a": W})
    from safetensors.torch import save_file

    save_file({"b": W}, tmp_path / "model.safetensors")
    assert open_checkpoint(tmp_path).layout == "safetensors"


@pytest.mark.parametrize("name", ["", "consolidated.00.pth"])
def test_metas_files(tmp_path: Path, name: str) -> None:
    save(tmp_path / "consolidated.00.pth", {"tok_embeddings.weight": W})
    (tmp_path / "params.json").write_text('{"dim": 4}')
    assert_holds(tmp_path / name, {"tok_embeddings.weight": W})
    assert open_checkpoint(tmp_path / name).config == {"dim": 4}
    save(tmp_path / "consolidated.01.pth", {"tok_embeddings.weight": W})
    with pytest.raises(UnsupportedError, match="over 2 ranks"):
        open_checkpoint(tmp_path / name)


def test_a_fifo_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="no regular file"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("zipped", [ZIP, LEGACY])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(data=st.data())
def test_no_damage_gives_another_error(tmp_path: Path, zipped: bool, data: st.DataObject) -> None:
    content = bytearray(save(tmp_path / "x.pt", {"w": W, "v": W[1]}, zipped=zipped).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    try:
        with open_checkpoint(damaged) as checkpoint:
            for name in checkpoint.manifest:
                checkpoint.tensor(name).sum()
    except CheckpointError:
        pass

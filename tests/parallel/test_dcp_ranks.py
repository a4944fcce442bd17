"""Torch's own checkpoints (DCP): what ranks have written, one process or ranks in another layout read, bit for bit."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import ranks_dcp as ranks
import torch
from launching import launch
from ranks_loading import Case, loaded, loader_of
from torch.distributed.tensor import DTensor

from kinfold.checkpoint import dcp_torch, open_checkpoint
from kinfold.parallel import pretended_gangs


@pytest.fixture(scope="module")
def written(cases: dict[str, Case], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that four ranks have written in several layouts, and that others have read."""
    folder = tmp_path_factory.mktemp("dcp")
    chosen = {name: cases[name] for name in ("llama", "nllb")}
    for faults in launch(ranks.written_and_read, 4, chosen, folder):
        assert faults == []
    return folder


@pytest.mark.parametrize("layout", ranks.LAYOUTS)
@pytest.mark.parametrize("name", ["llama", "nllb"])
def test_one_process_reads_what_ranks_have_written(
    cases: dict[str, Case], written: Path, name: str, layout: str
) -> None:
    loader, card = loader_of(cases[name]), cases[name][0]
    expected = loader(card).state_dict()
    with open_checkpoint(written / f"{name}-{layout}") as checkpoint:
        assert checkpoint.layout == "dcp"
        assert checkpoint.manifest.keys() == expected.keys()
        assert all(torch.equal(checkpoint.tensor(tensor), expected[tensor]) for tensor in expected)
    model = loader(msgspec.structs.replace(card, checkpoint=written / f"{name}-{layout}"))
    assert all(torch.equal(tensor, expected[key]) for key, tensor in model.state_dict().items())


def test_tensors_of_which_some_ranks_have_nothing(written: Path) -> None:
    with open_checkpoint(written / "odd") as checkpoint:
        for name, tensor in ranks.odd_tensors().items():
            assert torch.equal(checkpoint.tensor(name), tensor)


def test_a_rank_reads_its_part_alone(cases: dict[str, Case], written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card, config, inputs = cases["llama"]
    case: Case = msgspec.structs.replace(card, checkpoint=written / "llama-tp2dp2"), config, inputs
    read: dict[str, int] = {}
    plan = dcp_torch.BlockPlanner.create_local_plan

    def noting(self: dcp_torch.BlockPlanner) -> object:
        made = plan(self)
        for item in made.items:
            read[str(item.dest_index.fqn)] = read.get(str(item.dest_index.fqn), 0) + item.lengths.numel()
        return made

    monkeypatch.setattr(dcp_torch.BlockPlanner, "create_local_plan", noting)
    for rank in range(4):
        read.clear()
        with pretended_gangs(rank=rank, tp=4) as gangs:
            model = loaded(case, gangs)
        own = {key: tensor.to_local() for key, tensor in model.state_dict().items() if isinstance(tensor, DTensor)}
        assert read == {f"model.{key}": part.numel() for key, part in own.items()}
        assert all(part.untyped_storage().nbytes() == part.nbytes for part in own.values())

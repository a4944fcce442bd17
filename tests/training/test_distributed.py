"""Training over ranks, on gloo: the same as in one process, and gone on with in any layout."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any

import pytest
import ranks_training
import torch
from parallel.launching import launch
from ranks_training import WAYS, Layout, trained
from torch import Tensor

from kinfold import open_checkpoint
from kinfold.errors import CheckpointError, RankError, TrainingError
from kinfold.training.snapshot import DcpReader, read_snapshot

LAYOUTS: dict[str, Layout] = {"tp": {"tp": 2}, "fsdp": {"dp": 2}, "tp x fsdp": {"tp": 2, "dp": 2}}


def far(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """How far weights are apart, relative to the largest of each tensor."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max() / theirs[name].abs().max()) for name in ours)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_ranks_take_the_steps_of_one_process(layout: Layout) -> None:
    results = launch(ranks_training.in_all_ways, layout.get("tp", 1) * layout.get("dp", 1), layout)
    for name, options in WAYS.items():
        alone = {key: value for key, value in options.items() if key not in ("compile", "sequence_parallel")}
        if name == "means":  # of which each share counts the same
            alone["shares"] = layout.get("dp", 1)
        rows, weights = trained(None, **alone)
        limit = 1e-5 if name == "float32" else 1e-10
        for rank, found in enumerate(results):
            assert far(found[name][1], weights) < limit, (name, rank)
            assert found[name][0] == [] or rank == 0  # the others tell nothing
        told = results[0][name][0]
        assert [(kind, step) for kind, step, _ in told] == [(kind, step) for kind, step, _ in rows]
        for (_, _, ours), (_, _, theirs) in zip(told, rows, strict=True):
            assert ours == pytest.approx(theirs, rel=limit), name


def test_runs_are_stopped_together_and_gone_on_with(tmp_path: Path) -> None:
    results = launch(ranks_training.stop_and_go_on, 4, tmp_path)
    drawn: dict[str, dict[int, list[float]]] = {}
    for found in results:
        rank = found["rank"]
        # In the same layout it is the run that was not disturbed, bit for bit.
        assert found["in parts"][0] == found["undisturbed"][0]
        torch.testing.assert_close(found["in parts"][1], found["undisturbed"][1], rtol=0, atol=0)
        for name, own in (("undisturbed", rank["dp"]), ("other", rank["world"])):
            drawn.setdefault(name, {}).setdefault(own, found[name][0])
            assert drawn[name][own] == found[name][0]  # ranks that share tensors draw the same
        # In another one, random numbers depend on seed, step and rank alone.
        assert found["other"][0] == found["other again"][0]
        assert [(result.step_nr, result.stopped) for result in found["stopped"]] == [(3, True)] * 2
    for kind, ranks in (("undisturbed", 2), ("other", 4)):
        assert len({tuple(numbers) for numbers in drawn[kind].values()}) == ranks  # and those that share data do not
    for how in ("requested", "signalled"):
        assert sorted(path.name for path in (tmp_path / how).iterdir()) == [".lock", "step_3"]


TRIP: list[Layout] = [{"tp": 4}, {"dp": 4}, {"tp": 2, "dp": 2}, {"tp": 4}]


def state_of(folder: Path) -> dict[str, Any]:
    """The model and the optimizer in a checkpoint, read by one process that has begun with other weights."""
    model, trainer = ranks_training.make_trainer(None, seed=9)
    read_snapshot(folder, model, trainer._optimizer)
    return {"model": model.state_dict(), "optimizer": trainer._optimizer.state_dict()}


def test_a_checkpoint_is_read_in_any_layout_and_nothing_is_lost(tmp_path: Path) -> None:
    trained(None, checkpoint_dir=tmp_path, steps=2)
    places = [tmp_path / "step_2", *(tmp_path / str(number) for number in range(len(TRIP)))]
    launch(ranks_training.rewrite_all, 4, TRIP, places)
    states = [state_of(place) for place in places]
    for state in states[1:]:
        torch.testing.assert_close(state, states[0], rtol=0, atol=0)
    named = [set(DcpReader(place).read_metadata().state_dict_metadata) for place in places]
    assert named == [named[0]] * len(named)
    for place in places:
        checkpoint = open_checkpoint(place)
        for name, weight in states[0]["model"].items():
            assert torch.equal(checkpoint.tensor(name), weight)


def test_a_run_goes_on_on_any_number_of_ranks(tmp_path: Path) -> None:
    _, undisturbed = trained(None, steps=8)
    trained(None, steps=2, checkpoint_dir=tmp_path)
    launch(ranks_training.train_in, 4, {"tp": 4}, tmp_path, 4)
    (rows, _), *_ = launch(ranks_training.train_in, 2, {"dp": 2}, tmp_path, 6)
    assert [step for _, step, _ in rows] == [5, 6]
    _, weights = trained(None, steps=8, checkpoint_dir=tmp_path)
    assert far(weights, undisturbed) < 1e-10
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "step_2", "step_4", "step_6", "step_8"}


def test_what_is_wrong_on_one_rank_all_raise(tmp_path: Path) -> None:
    for name in ("locked", "other", "damaged"):
        trained(None, steps=1, checkpoint_dir=tmp_path / name)
    (tmp_path / "in the way").write_text("")
    damaged = tmp_path / "damaged" / "step_1" / "__0_0.distcp"
    damaged.write_bytes(damaged.read_bytes()[:-4000])
    with (tmp_path / "locked" / ".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        results = launch(ranks_training.errors, 4, tmp_path)
    expected = {
        "loss": (TrainingError, "Step 1: the loss is nan."),
        "gradient": (TrainingError, "Step 1: the gradient norm is nan."),
        "locked": (TrainingError, "Another run is at work in"),
        "in the way": (FileExistsError, "File exists"),
        "other": (TrainingError, "is of another model:"),
        "damaged": (CheckpointError, "cannot be read:"),
    }
    for found in results:
        assert found.keys() == expected.keys()
        for name, (kind, said) in expected.items():
            assert type(found[name]) is kind
            assert said in str(found[name])
            assert str(found[name]) == str(results[0][name]), name
    assert "the gradient of final_proj.weight" in results[0]["gradient"].faults


def test_where_a_rank_fails_by_itself_the_others_name_it() -> None:
    others, own = launch(ranks_training.fail_alone, 2, fails=True)
    assert isinstance(own, ValueError)
    assert isinstance(others, RankError)
    assert "at step 2" in others.summary
    assert others.faults == ("rank 1 has failed: ValueError: this unit has had enough",)


@pytest.mark.parametrize("where", ["step 3", "the checkpoint of step 4"])
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("killed", "rank 1 has died or is stopped; the last that was heard of it was at {where}"),
        ("hanging", "rank 1 hangs at {where}, in ranks_training.py:"),
    ],
    ids=["killed", "hanging"],
)
def test_a_rank_that_is_lost_is_an_error_on_all_others_and_leaves_no_part_of_a_checkpoint(
    tmp_path: Path, how: str, said: str, where: str
) -> None:
    results = launch(ranks_training.go_wrong, 3, how, where, tmp_path, 12.0, fails=True, lost=[1])
    for rank in (0, 2):
        assert isinstance(results[rank], RankError), results[rank]
        assert results[rank].summary.startswith(f"Rank {rank} cannot go on at {where}:")
        assert len(results[rank].faults) == 1
        assert results[rank].faults[0].startswith(said.format(where=where))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "step_2"]
    assert trained(None, checkpoint_dir=tmp_path, steps=3)[0][0][1] == 3

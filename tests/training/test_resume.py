"""Checkpoints, and going on from them."""

from __future__ import annotations

import fcntl
import random
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, LambdaLR, LinearLR, SequentialLR
from torch.utils.data import DataLoader
from toy import ToyModel, ToyUnit, collate, metrics, toy_model, toy_reader, toy_samples, toy_trainer

from kinfold import open_checkpoint
from kinfold.errors import CheckpointError, TrainingError
from kinfold.training import BatchReader, SequenceBatch, newest_checkpoint, snapshot


class NoisyUnit(ToyUnit):
    """Draws from every generator, besides the dropout of the model."""

    def __call__(self, batch: SequenceBatch, /) -> tuple[Tensor, int | None]:
        loss, count = super().__call__(batch)
        return loss * (1 + random.random() / 10 + float(np.random.rand()) / 10), count


def shuffling_loader() -> Iterable[SequenceBatch]:
    samples: Any = toy_samples()
    return DataLoader(samples, batch_size=3, shuffle=True, collate_fn=collate)


READERS: dict[str, Callable[[], Iterable[SequenceBatch]]] = {
    "BatchReader": toy_reader,
    "list": lambda: list(toy_reader()),
    "DataLoader": shuffling_loader,
}


def two_groups(model: nn.Module) -> Optimizer:
    weights, biases = ([p for p in model.parameters() if (p.dim() > 1) is wide] for wide in (True, False))
    return AdamW([{"params": weights}, {"params": biases, "weight_decay": 0.0, "lr": torch.tensor(1e-3)}], lr=1e-2)


OPTIMIZERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "AdamW": lambda model: AdamW(model.parameters(), lr=1e-2),
    "groups": two_groups,
    "SGD without a state": lambda model: SGD(model.parameters(), lr=0.1),
    "SGD": lambda model: SGD(model.parameters(), lr=0.1, momentum=0.9),
    "amsgrad": lambda model: Adam(model.parameters(), lr=1e-2, amsgrad=True),
}


class Halving:
    """A schedule without a state."""

    def __call__(self, step: int) -> float:
        return 0.5**step


SCHEDULES: dict[str, Callable[[Optimizer], Any]] = {
    "none": lambda _optimizer: None,
    "sequence": lambda o: SequentialLR(o, [LinearLR(o, 0.1, 1.0, 4), ConstantLR(o, 0.5, 3)], milestones=[4]),
    "callable": lambda o: LambdaLR(o, Halving()),
}


def run(
    folder: Path,
    steps: int,
    *,
    optimizer: str = "AdamW",
    schedule: str = "sequence",
    reader: Callable[[], Iterable[SequenceBatch]] = toy_reader,
) -> ToyModel:
    """Train a model to a step; it begins with other weights, unless it is the first."""
    model = toy_model(seed=9 if newest_checkpoint(folder) else 1)
    made = OPTIMIZERS[optimizer](model)
    toy_trainer(
        folder, unit=NoisyUnit(model), optimizer=made, lr_scheduler=SCHEDULES[schedule](made), max_num_steps=steps,
        gradient_accumulation=2, max_gradient_norm=1.0, data_reader=reader(),
    )()  # fmt: skip
    return model


def assert_resumes(folder: Path, stops: Iterable[int], **options: Any) -> None:
    """A run in several parts comes to what one in a single part comes to."""
    undisturbed = run(folder / "undisturbed", 12, **options)
    for stop in stops:
        parts = folder / f"parts_{stop}"
        run(parts, stop, **options)
        random.seed(stop)
        resumed = run(parts, 12, **options)
        assert metrics(parts) == metrics(folder / "undisturbed")
        assert len(metrics(parts)) == 12
        torch.testing.assert_close(resumed.state_dict(), undisturbed.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("reader", READERS)
def test_a_run_resumed_at_any_step_is_the_undisturbed_one_bit_for_bit(tmp_path: Path, reader: str) -> None:
    # An epoch is 8 batches, 4 steps.
    assert_resumes(tmp_path, range(1, 12), reader=READERS[reader])


@pytest.mark.parametrize("make", [toy_reader, lambda count: list(toy_reader(count))], ids=["BatchReader", "list"])
def test_an_epoch_that_ends_within_a_step_is_resumed_too(tmp_path: Path, make: Any) -> None:
    # 5 batches, the last of which is a step of its own.
    assert_resumes(tmp_path, (1, 2, 3, 4, 7), reader=lambda: make(15))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_any_optimizer_and_schedule_of_torch_is_resumed(tmp_path: Path, optimizer: str, schedule: str) -> None:
    assert_resumes(tmp_path, (5,), optimizer=optimizer, schedule=schedule)


def test_a_model_with_buffers_and_an_extra_state_is_resumed(tmp_path: Path) -> None:
    class Counting(ToyModel):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0
            self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

        def forward(self, seqs: Tensor) -> Tensor:
            self.calls += 1
            self.seen += seqs.numel()
            return super().forward(seqs)

        def get_extra_state(self) -> Any:
            return {"calls": self.calls}

        def set_extra_state(self, state: Any) -> None:
            self.calls = state["calls"]

    toy_trainer(tmp_path, unit=ToyUnit(Counting()), max_num_steps=5)()
    model = Counting()
    toy_trainer(tmp_path, unit=ToyUnit(model), max_num_steps=8)()
    read = [*toy_reader()]
    assert model.calls == 8
    assert int(model.seen) == sum(batch.seqs.numel() - batch.batch_size for batch in read)
    assert "inner.weight" in open_checkpoint(tmp_path / "step_8").manifest


def test_a_run_that_has_ended_tells_nothing_twice(tmp_path: Path) -> None:
    unit = ToyUnit(toy_model())
    options: dict[str, Any] = {"valid_data_reader": toy_reader(9), "checkpoint_every_n_steps": 5}
    first = toy_trainer(tmp_path, unit=unit, valid_unit=unit, **options)()
    rows = metrics(tmp_path)
    again = ToyUnit(toy_model(seed=9))
    assert toy_trainer(tmp_path, unit=again, valid_unit=again, **options)() == first
    assert metrics(tmp_path) == rows
    torch.testing.assert_close(again.model.state_dict(), unit.model.state_dict(), rtol=0, atol=0)


def test_the_oldest_checkpoints_are_removed(tmp_path: Path) -> None:
    toy_trainer(tmp_path, checkpoint_every_n_steps=2, keep_last_n_checkpoints=3)()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "metrics.jsonl", "step_10", "step_6", "step_8"]


def test_a_run_that_was_killed_before_it_removed_the_oldest_is_followed_by_one_that_does(tmp_path: Path) -> None:
    toy_trainer(tmp_path, checkpoint_every_n_steps=5)()
    toy_trainer(tmp_path, checkpoint_every_n_steps=5, keep_last_n_checkpoints=1)()
    assert [path.name for path in tmp_path.glob("step_*")] == ["step_10"]


def test_a_checkpoint_is_a_checkpoint_of_the_model(tmp_path: Path) -> None:
    model = toy_model()
    toy_trainer(tmp_path, unit=ToyUnit(model))()
    checkpoint = open_checkpoint(tmp_path / "step_10")
    assert list(checkpoint.manifest) == list(model.state_dict())
    for name, value in model.state_dict().items():
        assert torch.equal(checkpoint.tensor(name), value)


def test_the_state_of_an_optimizer_is_laid_out_as_torch_lays_it_out(tmp_path: Path) -> None:
    model = toy_model()
    optimizer = two_groups(model)
    toy_trainer(tmp_path, unit=ToyUnit(model), optimizer=optimizer, lr_scheduler=None)()
    names = {"exp_avg", "exp_avg_sq", "step"}
    keys = set(FileSystemReader(tmp_path / "step_10").read_metadata().state_dict_metadata)
    theirs = get_optimizer_state_dict(model, optimizer)["state"]
    assert {f"optimizer.state.{p}.{name}" for p in theirs for name in names} == {
        key for key in keys if key.startswith("optimizer.state.")
    }


def test_what_is_not_complete_is_no_checkpoint_and_leftovers_are_removed(tmp_path: Path) -> None:
    toy_trainer(tmp_path, max_num_steps=4)()
    for name in ("step_7", ".step_5.saving", ".step_2.removing", "step_7/deep"):
        (tmp_path / name).mkdir()
    for name in ("step_7/__0_0.distcp", ".step_5.saving/__0_0.distcp", ".step_2.removing/.metadata"):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / "step_08").mkdir()
    (tmp_path / "step_08" / ".metadata").write_bytes(b"of somebody else")
    assert newest_checkpoint(tmp_path) == tmp_path / "step_4"
    result = toy_trainer(tmp_path, max_num_steps=7)()
    assert result.step_nr == 7
    assert newest_checkpoint(tmp_path) == tmp_path / "step_7"
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {".lock", "metrics.jsonl", "step_4", "step_7", "step_08"}
    assert newest_checkpoint(tmp_path / "nowhere") is None


def test_a_folder_with_checkpoints_is_not_begun_anew_unasked(tmp_path: Path) -> None:
    toy_trainer(tmp_path)()
    with pytest.raises(TrainingError, match="checkpoint_dir has step_10: name another folder, or go on from there"):
        toy_trainer(tmp_path, resume=False)


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TrainingError, match="Another run is at work in"):
            toy_trainer(tmp_path)()


def test_another_model_is_refused_with_every_difference(tmp_path: Path) -> None:
    class Other(ToyModel):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(8, 12, bias=False)
            self.scale = nn.Parameter(torch.ones(2))
            self.embed = nn.Embedding(17, 8, dtype=torch.float64)

    toy_trainer(tmp_path, max_num_steps=2)()
    with pytest.raises(TrainingError, match=r"step_2 is of another model") as caught:
        toy_trainer(tmp_path, unit=ToyUnit(Other()))()
    assert set(caught.value.faults) == {
        "scale: the checkpoint does not have it",
        "inner.bias: the model does not have it",
        "embed.weight: torch.float32 (16, 8) in the checkpoint, torch.float64 (17, 8) in the model",
    }


def test_another_optimizer_is_refused_with_every_difference_and_nothing_is_changed(tmp_path: Path) -> None:
    toy_trainer(tmp_path, max_num_steps=2)()
    model, before = toy_model(seed=9), toy_model(seed=9)
    optimizer = SGD([{"params": [*model.parameters()][1:]}, {"params": [model.embed.weight]}], lr=0.1)
    with pytest.raises(TrainingError, match="step_2 is of another optimizer") as caught:
        toy_trainer(tmp_path, unit=ToyUnit(model), optimizer=optimizer)()
    assert caught.value.faults == (
        "it was AdamW, and is SGD",
        "it had 1 groups of parameters, and has 2",
        "group 0 had embed.weight, and has not",
    )
    torch.testing.assert_close(model.state_dict(), before.state_dict(), rtol=0, atol=0)


def test_a_schedule_or_a_reader_that_comes_or_goes_is_refused(tmp_path: Path) -> None:
    toy_trainer(tmp_path, max_num_steps=2)()
    with pytest.raises(TrainingError, match="begun with a lr_scheduler, and would go on with no lr_scheduler"):
        toy_trainer(tmp_path, lr_scheduler=None)()
    with pytest.raises(TrainingError, match="data_reader has none, and that of the checkpoint has a state"):
        toy_trainer(tmp_path, data_reader=list(toy_reader()))()
    with pytest.raises(TrainingError, match="samples was 22, and is 23"):
        toy_trainer(tmp_path, data_reader=toy_reader(23))()


def test_data_that_have_become_fewer_are_refused(tmp_path: Path) -> None:
    toy_trainer(tmp_path, data_reader=list(toy_reader()), max_num_steps=5)()
    with pytest.raises(TrainingError, match="data_reader gives 3 batches, of which 5 were read already"):
        toy_trainer(tmp_path, data_reader=list(toy_reader())[:3])()


def test_a_checkpoint_of_a_model_alone_is_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save({"model": toy_model().state_dict()}, checkpoint_id=tmp_path / "step_2", no_dist=True)
    with pytest.raises(TrainingError, match="step_2 is no checkpoint of a run: it holds a model alone"):
        toy_trainer(tmp_path)()


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    toy_trainer(tmp_path, max_num_steps=2)()
    data = tmp_path / "step_2" / "__0_0.distcp"
    whole = data.read_bytes()
    data.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="step_2 cannot be read"):
        toy_trainer(tmp_path)()
    data.unlink()
    with pytest.raises(CheckpointError, match="names files that cannot be used"):
        toy_trainer(tmp_path)()


class Runs:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    model = toy_model()
    optimizer = AdamW(model.parameters())
    state = {
        "model": model.state_dict(),
        "optimizer": {"type": "AdamW", **optimizer.state_dict()},
        "run": (Runs(tmp_path / "ran"),),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(state, checkpoint_id=tmp_path / "step_2", no_dist=True)
    with pytest.raises(CheckpointError, match="step_2 cannot be read"):
        toy_trainer(tmp_path)()
    assert not (tmp_path / "ran").exists()


def test_a_state_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    class Odd(BatchReader[SequenceBatch]):
        def state_dict(self) -> dict[str, Any]:
            return {**super().state_dict(), "place": Runs(tmp_path / "ran")}

    with pytest.raises(TrainingError, match="A checkpoint could not be read again") as caught:
        toy_trainer(tmp_path, data_reader=Odd(toy_samples(), 3, collate))()
    assert [fault.split(":")[0] for fault in caught.value.faults] == ["epochs"]
    assert newest_checkpoint(tmp_path) is None
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as later:
        later.setattr(snapshot, "FORMAT", 2)
        toy_trainer(tmp_path, max_num_steps=1)()
    with pytest.raises(TrainingError, match="step_1 has the format 2, and this version of Kinfold reads 1"):
        toy_trainer(tmp_path, max_num_steps=2)()

"""What ranks train: a tiny llama that is spread over them, or left whole, for tests to compare."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from llama_peer import tiny_llama
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.tensor import DTensor
from torch.nn.functional import pad
from toy import Kept, ToyUnit, collate, toy_samples

from kinfold.parallel import Gangs, setup_gangs, shard_data_parallel, shard_model
from kinfold.parallel.native import native_plan
from kinfold.training import BatchReader, SequenceBatch, Trainer
from kinfold.training.ranks import Ranks
from kinfold.training.snapshot import read_snapshot, write_snapshot

TIMEOUT = 120.0
Layout = Mapping[str, int]
"""Sizes of gangs."""

Weights = dict[str, Tensor]
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "float32": {"dtype": torch.float32},
    "clipped, and validated": {"max_gradient_norm": 0.5, "validate_every_n_steps": 2},
    "accumulated": {"gradient_accumulation": 4},
    "sequence parallel": {"sequence_parallel": True, "max_gradient_norm": 0.5},
    "means": {"mean": True, "steps": 5},
    "compiled": {"compile": "eager", "count": 5, "steps": 1},
}
"""Runs by name: arguments of `make_trainer`. Batches of 5 of 21 samples end with one of a single sample."""


def make_trainer(
    gangs: Gangs | None,
    *,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    steps: int = 6,
    count: int = 21,
    batch_size: int = 5,
    mean: bool = False,
    unit: Callable[[nn.Module], ToyUnit] | None = None,
    kept: Kept | None = None,
    shares: int = 1,
    sequence_parallel: bool = False,
    **options: Any,
) -> tuple[nn.Module, Trainer[SequenceBatch]]:
    """A llama and what trains it, with AdamW and a schedule.

    In one process, `shares` are batches of their own, in the order of the first epoch.
    """
    model = tiny_llama(dtype=dtype, seed=seed).train()
    gang = None
    if gangs is not None:
        shard_model(model, native_plan(model), gangs, sequence_parallel=sequence_parallel)
        shard_data_parallel(model, gang := gangs["dp"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    made = ToyUnit(model, mean=mean) if unit is None else unit(model)
    readers: Any = [BatchReader(toy_samples(n), batch_size, collate_evenly, gang=gang) for n in (count, 11)]
    if shares > 1:
        whole = list(BatchReader(toy_samples(count), batch_size, list))
        readers[0] = [collate(batch[share::shares]) for batch in whole for share in range(min(shares, len(batch)))]
        options["gradient_accumulation"] = shares
    if "validate_every_n_steps" in options:
        options = {**options, "valid_unit": made, "valid_data_reader": readers[1]}
    trainer = Trainer(
        unit=made, data_reader=readers[0], optimizer=optimizer, max_num_steps=steps, gangs=gangs,
        lr_scheduler=torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.7), publish_metrics_every_n_steps=1,
        recorders=[kept or Kept()], **options,
    )  # fmt: skip
    return model, trainer


def collate_evenly(samples: Sequence[Tensor]) -> SequenceBatch:
    """A batch whose inputs two ranks can share along the sequence."""
    batch = collate(samples)
    assert batch.padding_mask is not None
    more = (0, 1 - batch.seqs.shape[1] % 2)
    return SequenceBatch(pad(batch.seqs, more), pad(batch.padding_mask, more))


def trained(gangs: Gangs | None, **options: Any) -> tuple[list[Any], Weights]:
    """What was told, without times, and the weights that a run comes to."""
    kept = Kept()
    model, trainer = make_trainer(gangs, kept=kept, **options)
    trainer()
    for _, _, values in kept.rows:
        values.pop("tokens_per_second", None)
    return kept.rows, weights(model)


def weights(model: nn.Module) -> Weights:
    """All weights, in whole."""
    return {name: _whole(weight) for name, weight in model.state_dict().items()}


def in_all_ways(layout: Layout) -> dict[str, tuple[list[Any], Weights]]:
    """Every run of `WAYS`, in one layout."""
    with setup_gangs(**layout, device="cpu", timeout=TIMEOUT) as gangs:
        return {name: trained(gangs, **options) for name, options in WAYS.items()}


class NoisyUnit(ToyUnit):
    """Draws from torch's generator and Python's, and keeps what it drew."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.drawn: list[float] = []

    def __call__(self, batch: SequenceBatch, /) -> tuple[Tensor, int | None]:
        loss, count = super().__call__(batch)
        self.drawn.append(random.random() + float(torch.rand(())))
        return loss * (1 + self.drawn[-1] / 10), count


def noisy(gangs: Gangs, folder: Path, steps: int, **options: Any) -> tuple[list[float], Weights]:
    """A run that draws random numbers; gives these, and the weights."""
    units: list[NoisyUnit] = []

    def unit(model: nn.Module) -> NoisyUnit:
        units.append(NoisyUnit(model))
        return units[0]

    model, trainer = make_trainer(gangs, unit=unit, steps=steps, checkpoint_dir=folder, **options)
    trainer()
    return units[0].drawn, weights(model)


def stop_and_go_on(folder: Path) -> dict[str, Any]:
    """Runs of four ranks that are stopped and gone on with, in the same layout and in others."""
    found: dict[str, Any] = {}
    with setup_gangs(tp=2, dp=2, device="cpu", timeout=TIMEOUT) as square:
        found["rank"] = {name: square[name].rank for name in ("world", "tp", "dp")}
        found["undisturbed"] = noisy(square, folder / "undisturbed", 6)
        first, _ = noisy(square, folder / "parts", 3)
        rest, resumed = noisy(square, folder / "parts", 6, seed=9)
        found["in parts"] = [*first, *rest], resumed
        flat = setup_gangs(dp=4, device="cpu")
        for name in ("other", "other again"):
            noisy(square, folder / name, 3)
            found[name] = noisy(flat, folder / name, 6, seed=9)
        found["stopped"] = [_stopped(square, folder / how, how) for how in ("requested", "signalled")]
    return found


def _stopped(gangs: Gangs, folder: Path, how: str) -> Any:
    """Ask the last rank alone to stop, in step 3."""
    trainers: list[Any] = []

    def stop(step_nr: int) -> None:
        if step_nr == 3 and gangs["world"].rank == gangs["world"].size - 1:
            trainers[0].request_stop() if how == "requested" else os.kill(os.getpid(), signal.SIGTERM)

    trainers.append(make_trainer(gangs, unit=lambda m: ToyUnit(m, on_step=stop), checkpoint_dir=folder)[1])
    return trainers[0]()


def rewrite_all(layouts: Iterable[Layout], places: list[Path]) -> None:
    """Read a snapshot into one layout, write it from there, read that into the next, and so on."""
    with setup_gangs(device="cpu", timeout=TIMEOUT):
        for layout, (source, destination) in zip(layouts, pairwise(places), strict=True):
            gangs = setup_gangs(**layout, device="cpu")
            model, trainer = make_trainer(gangs, seed=9)
            run = read_snapshot(source, model, trainer._optimizer)
            ranks = Ranks(gangs)
            ranks.first(destination.mkdir)
            write_snapshot(destination, model, trainer._optimizer, run, ranks)
            ranks.world.barrier()


def train_in(layout: Layout, folder: Path, steps: int, **options: Any) -> tuple[list[Any], Weights]:
    """A run in one layout, gone on with from a folder."""
    with setup_gangs(**layout, device="cpu", timeout=TIMEOUT) as gangs:
        return trained(gangs, steps=steps, checkpoint_dir=folder, **options)


class Poisoned(ToyUnit):
    """Gives, on one rank alone, a loss or a gradient that is no number.

    Args:
        model: The model.
        what: "loss" or "gradient".
    """

    def __init__(self, model: nn.Module, what: str) -> None:
        super().__init__(model)
        self._what = what

    def __call__(self, batch: SequenceBatch, /) -> tuple[Tensor, int | None]:
        loss, count = super().__call__(batch)
        if self._what == "loss":
            return loss * float("nan"), count
        if loss.requires_grad:
            loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss, count


def errors(folder: Path) -> dict[str, Any]:
    """What four ranks raise of what is wrong on one of them, or in the folder."""
    found: dict[str, Any] = {}
    with setup_gangs(tp=2, dp=2, device="cpu", timeout=TIMEOUT) as gangs:
        is_last = gangs["dp"].rank == 1

        def poisoned(what: str) -> Callable[[nn.Module], ToyUnit]:
            return lambda model: Poisoned(model, what) if is_last else ToyUnit(model)

        attempts: dict[str, dict[str, Any]] = {
            "loss": {"unit": poisoned("loss")},
            "gradient": {"unit": poisoned("gradient")},
            "locked": {"checkpoint_dir": folder / "locked"},
            "in the way": {"checkpoint_dir": folder / "in the way"},
            "other": {"checkpoint_dir": folder / "other", "dtype": torch.float32},
            "damaged": {"checkpoint_dir": folder / "damaged"},
        }
        for name, options in attempts.items():
            try:
                make_trainer(gangs, **options)[1]()
            except Exception as error:
                found[name] = error
    return found


def fail_alone() -> None:
    """Fail on one rank, by an error of its own, in step 2."""

    def fail(step_nr: int) -> None:
        if step_nr == 2 and gangs["world"].rank == 1:
            raise ValueError("this unit has had enough")

    with setup_gangs(dp=2, device="cpu", timeout=TIMEOUT) as gangs:
        make_trainer(gangs, unit=lambda model: ToyUnit(model, on_step=fail))[1]()


def go_wrong(how: str, where: str, folder: Path, timeout: float) -> None:
    """Of three ranks, one is killed or hangs: in step 3, or while the checkpoint of step 4 is written."""
    write_data = FileSystemWriter.write_data

    def stop(at: object) -> None:
        if gangs["world"].rank == 1 and at == where:
            time.sleep(1.0)  # so that its place is known
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(600)

    def write(self: FileSystemWriter, plan: Any, planner: Any) -> Any:
        stop(f"the checkpoint of {Path(self.path).name.split('.')[1].replace('_', ' ')}")
        return write_data(self, plan, planner)

    with setup_gangs(dp=3, device="cpu", timeout=timeout) as gangs:
        FileSystemWriter.write_data = write
        options = {"checkpoint_dir": folder, "checkpoint_every_n_steps": 2}
        make_trainer(gangs, unit=lambda m: ToyUnit(m, on_step=lambda nr: stop(f"step {nr}")), **options)[1]()


def _whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()

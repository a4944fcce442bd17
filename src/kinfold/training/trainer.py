"""The loop: batches, gradients, steps, and what happens every now and then between steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Generic, TypeVar

import torch
from torch.distributed.checkpoint.stateful import Stateful
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from kinfold.errors import TrainingError
from kinfold.parallel.gangs import Gangs
from kinfold.parallel.layers import layers_of
from kinfold.training.arguments import check_arguments
from kinfold.training.checkpoints import alone_in, newest_checkpoint, remove_oldest, save_checkpoint
from kinfold.training.epochs import Epochs
from kinfold.training.gradients import backward, clip
from kinfold.training.metrics import Recorder, Sums
from kinfold.training.ranks import Ranks
from kinfold.training.rng import rng_state, seed_all, set_rng_state
from kinfold.training.signals import asked_to_stop
from kinfold.training.snapshot import read_snapshot, write_snapshot
from kinfold.training.unit import TrainUnit
from kinfold.training.validation import mean_loss

BatchT = TypeVar("BatchT")


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended.

    Attributes:
        step_nr: The last step, counted from the very first run.
        epoch_nr: Its epoch, counted from 1.
        loss: Its loss, the mean over its targets; None if no step was taken.
        valid_loss: What was last measured on the data for validation; None if nothing was.
        stopped: Whether it was asked to stop before its end, by a signal or by `request_stop`.
    """

    step_nr: int
    epoch_nr: int
    loss: float | None
    valid_loss: float | None
    stopped: bool


class Trainer(Generic[BatchT]):
    """Trains the model of a unit, and can be stopped and resumed at any moment.

    A step takes `gradient_accumulation` batches, and its gradient is that of the mean over all their targets. What is
    told and written happens between steps: values, validation, checkpoints, in this order.

    Of several ranks each has a trainer with the same arguments. They take their steps together, and come to the same
    errors; the first of them tells values, and all write checkpoints, which any other number of ranks can go on from.

    Args:
        unit: The model, and how a batch becomes a loss.
        data_reader: One pass over it is an epoch. If it has `state_dict` and `load_state_dict`, as `BatchReader` has,
            its place is in the checkpoint; of any other what was read is skipped. On several ranks each gives the
            share of its rank of `dp`, and as many batches on all: `BatchReader(..., gang=gangs["dp"])`.
        optimizer: Of the model's parameters.
        lr_scheduler: One of torch's; it goes by the step.
        max_num_steps: After how many steps to end.
        max_num_data_epochs: After how many epochs to end; what comes first counts.
        gradient_accumulation: Batches of a step; the last of an epoch may have fewer.
        max_gradient_norm: The norm to which larger gradients are clipped.
        dtype: bfloat16 computes in it where torch's autocast finds it safe, with weights in float32. float32 computes
            in the dtype of the weights.
        device: Where the model is put; None leaves it where it is.
        gangs: What the model was spread over, by `shard_model` and `shard_data_parallel`; None for one process.
        compile: Whether to compile the model (`nn.Module.compile`, in place), on several ranks each layer; the name of
            a backend, or what else it takes.
        seed: Of all random numbers that are drawn while training.
        valid_unit: The model, and how a batch for validation becomes a loss.
        valid_data_reader: One pass over it is a validation. If it has a place, each begins where it is now.
        validate_every_n_steps: When to validate, besides the end.
        checkpoint_dir: Where checkpoints are, each in `step_N`; there is one at the end and where the run is stopped.
        checkpoint_every_n_steps: When to write one besides.
        keep_last_n_checkpoints: How many to keep; None for all.
        resume: Whether to go on from the newest checkpoint; False refuses a folder that has one.
        publish_metrics_every_n_steps: When values are told to `recorders`.
        recorders: Who is told values.
        progress: Who is told values after every step.

    Raises:
        TrainingError: Lists everything that is wrong with the arguments.
    """

    def __init__(
        self,
        *,
        unit: TrainUnit[BatchT],
        data_reader: Iterable[BatchT],
        optimizer: Optimizer,
        lr_scheduler: LRScheduler | None = None,
        max_num_steps: int | None = None,
        max_num_data_epochs: int | None = None,
        gradient_accumulation: int = 1,
        max_gradient_norm: float | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        gangs: Gangs | None = None,
        compile: bool | str | Mapping[str, Any] = False,
        seed: int = 2,
        valid_unit: TrainUnit[BatchT] | None = None,
        valid_data_reader: Iterable[BatchT] | None = None,
        validate_every_n_steps: int | None = None,
        checkpoint_dir: str | Path | None = None,
        checkpoint_every_n_steps: int | None = None,
        keep_last_n_checkpoints: int | None = None,
        resume: bool = True,
        publish_metrics_every_n_steps: int = 10,
        recorders: Sequence[Recorder] = (),
        progress: Recorder | None = None,
    ) -> None:
        check_arguments(locals())
        self.step_nr = 0
        """The last step that was taken; 0 before the first."""
        self._ranks = Ranks(gangs)
        self._unit = unit
        self._model = unit.model
        self._optimizer = optimizer
        self._lr_scheduler = lr_scheduler
        self._max_num_steps = max_num_steps
        self._max_gradient_norm = max_gradient_norm
        self._dtype = dtype
        self._device = torch.device(device) if device is not None else next(self._model.parameters()).device
        self._compile = compile
        self._seed = seed
        self._valid_unit = valid_unit
        self._valid_data_reader = valid_data_reader
        self._valid_place = valid_data_reader.state_dict() if isinstance(valid_data_reader, Stateful) else None
        self._validate_every = validate_every_n_steps
        self._checkpoint_dir = Path(checkpoint_dir) if checkpoint_dir is not None else None
        self._checkpoint_every = checkpoint_every_n_steps
        self._keep_last_n = keep_last_n_checkpoints
        self._publish_every = publish_metrics_every_n_steps
        self._recorders = tuple(recorders) if self._ranks.is_first else ()
        self._progress = progress if self._ranks.is_first else None
        self._listeners = (*self._recorders, *([self._progress] if self._progress is not None else []))
        self._epochs = Epochs(data_reader, gradient_accumulation, max_num_data_epochs, self._device)
        self._sums = Sums()
        self._loss: float | None = None
        self._gradient_norm: float | None = None
        self._lr: float | None = None
        self._valid_loss: float | None = None
        self._validated_at = 0
        self._saved_at = 0
        self._was_run = False

    def __call__(self) -> TrainingResult:
        """The same as `run`."""
        return self.run()

    def run(self) -> TrainingResult:
        """Train to the end, or until asked to stop. A trainer runs once.

        In the main thread SIGINT and SIGTERM ask to stop: the step is finished and a checkpoint written. Where one rank
        is asked, all stop after the same step.

        Raises:
            TrainingError: It ran already; a checkpoint does not fit, or another run is at work in its folder; a loss
                or a gradient is not finite; a unit or a reader does not give what it is to give.
            CheckpointError: A checkpoint is damaged.
            RankError: Another rank has died, hangs, or has failed by itself.
        """
        if self._was_run:
            raise TrainingError("This trainer ran already.", hint="To go on from its checkpoint, make a new one.")
        self._was_run = True
        with ExitStack() as stack:
            stack.enter_context(self._ranks.guarding())
            for listener in self._listeners:
                stack.callback(listener.close)
            if self._checkpoint_dir is not None:
                alone = alone_in(self._checkpoint_dir)
                self._ranks.first(lambda: stack.enter_context(alone))
                self._remove_oldest()  # a killed run may not have come to it
            stack.enter_context(asked_to_stop(self.request_stop))
            self._begin()
            self._ranks.first(self._start_listeners)
            finished = self._train()
        return TrainingResult(self.step_nr, self._epochs.epoch_nr, self._loss, self._valid_loss, stopped=not finished)

    def request_stop(self) -> None:
        """Have the run stop after the step that is being taken; from another thread, or from a unit, on any rank."""
        self._ranks.asked_to_stop = True

    def _begin(self) -> None:
        """Put everything where the run starts, or goes on."""
        for unit in (self._unit, self._valid_unit):
            if unit is not None:
                unit.model.to(self._device)
        if self._compile:
            options = {"backend": self._compile} if isinstance(self._compile, str) else self._compile
            # What ranks say to one another between layers torch does not compile for sequences of every length.
            for module in [layer for _, layer in layers_of(self._model)] if self._ranks.many else [self._model]:
                module.compile(**(options if isinstance(options, Mapping) else {}))
        self._model.train()
        self._optimizer.zero_grad(set_to_none=True)
        seed_all(self._seed, rank=self._ranks.dp.rank)
        if (folder := self._checkpoint_dir) and (newest := self._ranks.first(lambda: newest_checkpoint(folder))):
            others = self._ranks.elsewhere(self._model.state_dict())
            state = self._ranks.together(lambda: read_snapshot(newest, self._model, self._optimizer, elsewhere=others))
            self._load_state(state)

    def _start_listeners(self) -> None:
        for listener in self._listeners:
            listener.start(self.step_nr, self._max_num_steps)

    def _train(self) -> bool:
        """Take steps; gives whether the end was reached."""
        groups = self._epochs.groups()
        while not (finished := not self._is_step_left()) and not self._ranks.stopping:
            began = perf_counter()
            batches = next(groups, None)
            if batches is None:
                finished = True
                break
            self._step(batches, began)
            self._between_steps()
        if finished:
            self._publish()
            self._validate()
        self._save()
        return finished

    def _is_step_left(self) -> bool:
        return self._max_num_steps is None or self.step_nr < self._max_num_steps

    def _step(self, batches: Sequence[BatchT], began: float) -> None:
        step_nr = self.step_nr + 1
        self._ranks.at(f"step {step_nr}")
        self._unit.set_step_nr(step_nr)
        try:
            losses = backward(self._unit, map(self._on_device, batches), step_nr, self._precision, self._ranks)
            loss, self._gradient_norm = clip(self._model, losses, self._max_gradient_norm, step_nr, self._ranks)
            self._optimizer.step()
        finally:
            self._optimizer.zero_grad(set_to_none=True)
        self._lr = float(self._optimizer.param_groups[0]["lr"])
        if self._lr_scheduler is not None:
            self._lr_scheduler.step()
        self.step_nr = step_nr
        self._loss = loss / losses.count.weight
        self._sums.add(loss, losses.count.weight, losses.count.num_targets, perf_counter() - began)

    def _between_steps(self) -> None:
        if self._progress is not None:
            self._progress.record("train", self.step_nr, self._values())
        if self._is_due(self._publish_every):
            self._publish()
        if self._is_due(self._validate_every):
            self._validate()
        # After the last step it is written later, when all was told.
        if self._is_due(self._checkpoint_every) and self._is_step_left():
            self._save()

    def _is_due(self, every_n_steps: int | None) -> bool:
        return every_n_steps is not None and self.step_nr % every_n_steps == 0

    def _publish(self) -> None:
        """Tell what was measured since it was last told, if anything was."""
        if self._sums.weight:
            for recorder in self._recorders:
                recorder.record("train", self.step_nr, self._values())
            self._sums.clear()

    def _values(self) -> dict[str, float]:
        """The mean loss since values were last told, and the state of things after this step."""
        known = {"gradient_norm": self._gradient_norm, "lr": self._lr, "epoch": self._epochs.epoch_nr}
        return {**self._sums.values(), **{name: value for name, value in known.items() if value is not None}}

    def _validate(self) -> None:
        """Measure the loss on the data for validation, unless that was done after this very step.

        Each validation is the same, and training goes on as if there had been none.
        """
        if self._valid_unit is None or self._valid_data_reader is None or self._validated_at == self.step_nr:
            return
        self._ranks.at(f"validation after step {self.step_nr}")
        random_numbers = rng_state(self._device)
        if isinstance(self._valid_data_reader, Stateful) and self._valid_place is not None:
            self._valid_data_reader.load_state_dict(self._valid_place)
        self._valid_unit.model.eval()
        self._valid_unit.set_step_nr(self.step_nr)
        batches = map(self._on_device, self._valid_data_reader)
        self._valid_loss = mean_loss(
            self._valid_unit, batches, f"Validation after step {self.step_nr}", self._precision, self._ranks
        )
        self._model.train()
        set_rng_state(random_numbers, self._device)
        self._validated_at = self.step_nr
        for listener in self._listeners:
            listener.record("valid", self.step_nr, {"loss": self._valid_loss})

    def _precision(self) -> AbstractContextManager[object]:
        """The dtype to compute in, entered around each forward pass."""
        return nullcontext() if self._dtype == torch.float32 else torch.autocast(self._device.type, self._dtype)

    def _on_device(self, batch: BatchT) -> BatchT:
        to: Any = getattr(batch, "to", None)
        return batch if to is None else to(self._device)

    def _remove_oldest(self) -> None:
        if folder := self._checkpoint_dir:
            self._ranks.first(lambda: remove_oldest(folder, self._keep_last_n))

    def _save(self) -> None:
        """Write a checkpoint, unless there is one of this very step."""
        if self._checkpoint_dir is None or self._saved_at == self.step_nr:
            return
        self._ranks.at(f"the checkpoint of step {self.step_nr}")
        run = self._state()

        def write(folder: Path) -> None:
            write_snapshot(folder, self._model, self._optimizer, run, self._ranks)

        save_checkpoint(self._checkpoint_dir, self.step_nr, write, self._ranks)
        self._remove_oldest()
        self._saved_at = self.step_nr

    def _state(self) -> dict[str, Any]:
        """All that is in a checkpoint besides model and optimizer."""
        return {
            "step_nr": self.step_nr,
            "loss": self._loss,
            "gradient_norm": self._gradient_norm,
            "lr": self._lr,
            "valid_loss": self._valid_loss,
            "validated_at": self._validated_at,
            "sums": asdict(self._sums),
            "epochs": self._ranks.kept(self._epochs.state_dict()),
            "lr_scheduler": None if self._lr_scheduler is None else self._lr_scheduler.state_dict(),
            "rng": self._ranks.kept(rng_state(self._device)),
        }

    def _load_state(self, state: Mapping[str, Any]) -> None:
        if (state["lr_scheduler"] is None) != (self._lr_scheduler is None):
            had, has = ("no", "a") if self._lr_scheduler is not None else ("a", "no")
            raise TrainingError(f"The run was begun with {had} lr_scheduler, and would go on with {has} lr_scheduler.")
        if self._lr_scheduler is not None:
            self._lr_scheduler.load_state_dict(state["lr_scheduler"])
        self.step_nr = self._saved_at = state["step_nr"]
        self._loss, self._gradient_norm, self._lr = state["loss"], state["gradient_norm"], state["lr"]
        self._valid_loss, self._validated_at = state["valid_loss"], state["validated_at"]
        self._sums = Sums(**state["sums"])
        self._epochs.load_state_dict(self._place(state["epochs"]))
        rng = state["rng"]
        if own_rng := self._ranks.own(rng if isinstance(rng, list) else [rng]):
            set_rng_state(own_rng, self._device)
        else:
            seed_all(self._seed, step_nr=self.step_nr, rank=self._ranks.dp.rank)

    def _place(self, kept: Any) -> Mapping[str, Any]:
        """This rank's place in the data."""
        if place := self._ranks.own(kept):
            return place
        raise TrainingError(
            f"The data were shared by {len(kept)} ranks, each of which had a place of its own.",
            hint=f"Go on with dp={len(kept)}; a BatchReader has one place for any number of ranks.",
        )

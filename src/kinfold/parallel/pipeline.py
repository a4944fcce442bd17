"""Pipeline parallel for decoders: torch's schedules send vectors from stage to stage, and gradients back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.functional import pad

from kinfold.parallel.gangs import Gang, Gangs
from kinfold.parallel.local import local
from kinfold.parallel.loss import IGNORED
from kinfold.parallel.stages import shared_weight
from kinfold.parallel.styles import placed_gradient

if TYPE_CHECKING:
    from torch.distributed.pipelining.schedules import PipelineScheduleSingle

Loss = Callable[[Tensor, Tensor], Tensor]
"""From the logits of a microbatch, (B, S, V), and targets, int64 (B, S), to a sum over those that are not `IGNORED`."""

REMEMBERED = 4
"""Shapes of batches for which the setup is kept: what stages send has its place in memory for each."""


def alternates(microbatches: int, stages: int) -> bool:
    """Whether stages turn to the backward pass of each microbatch as soon as they can.

    So they do (1F1B, Narayanan et al. 2021, section 2.2.1) unless there are fewer microbatches than stages, when all go
    forward first (GPipe, Huang et al. 2019, section 2.3).
    """
    return microbatches >= stages


def microbatches_in_flight(microbatches: int, stages: int, stage: int) -> int:
    """How many microbatches at most have gone forward through a stage, and not backward."""
    return stages - stage if alternates(microbatches, stages) else microbatches


class Pipeline:
    """Computes gradients through all stages, microbatch by microbatch (see `alternates`).

    What is sent is set up for each shape of a batch, with a pass of one microbatch.

    Args:
        model: The stage of this rank.
        gangs: What it was spread over.
        loss: Of the last stage.
        microbatches: How many a batch is cut into.
    """

    def __init__(self, model: nn.Module, gangs: Gangs, loss: Loss, *, microbatches: int) -> None:
        self._model = model
        self._gang, self._dp = gangs["pp"], gangs["dp"]
        self._loss = loss
        self._microbatches = microbatches
        self._device = gangs.device
        self._schedules: dict[tuple[int, ...], PipelineScheduleSingle] = {}

    def backward(self, token_ids: Tensor, targets: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Leave the gradient of the loss of a batch in the parameters of all stages.

        Args:
            token_ids: int64, (B, S); on every stage the same.
            targets: int64, (B, S), likewise.
            padding_mask: bool, (B, S); None if there is a token everywhere.

        Returns:
            The sum of the losses of all microbatches, on every stage; a scalar.
        """
        return self._run(token_ids, targets, padding_mask, training=True)

    def evaluate(self, token_ids: Tensor, targets: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """The loss of a batch, without gradients; for the arguments see `backward`."""
        loss = self._run(token_ids, targets, padding_mask, training=False)
        for module in self._model.modules():
            if isinstance(module, FSDPModule):  # torch takes apart again what a backward pass has been through
                module.reshard()
        return loss

    def _run(self, token_ids: Tensor, targets: Tensor, padding_mask: Tensor | None, *, training: bool) -> Tensor:
        token_ids, targets, padding_mask = self._filled_up(token_ids, targets, padding_mask)
        is_new, schedule = self._schedule(token_ids, has_mask=padding_mask is not None, training=training)
        masks: dict[str, Any] = {} if padding_mask is None else {"padding_mask": padding_mask}
        losses: list[Tensor] = []
        step = schedule.step if training else schedule.eval
        first = (token_ids,) if self._gang.rank == 0 else ()
        with self._added(is_new=is_new, training=training):
            step(*first, token_ids=token_ids, target=targets, losses=losses, return_outputs=False, **masks)
        total = torch.stack(losses).sum().detach() if losses else token_ids.new_zeros((), dtype=torch.float32)
        return self._gang.all_reduce(total.float())  # only the last stage has any

    @contextmanager
    def _added(self, *, is_new: bool, training: bool) -> Iterator[None]:
        """Add gradients to those that there are, which are kept out of torch's way.

        Where torch sets up a schedule, it drops the gradients of what FSDP has sharded. Those of a weight that another
        stage has, too, are the same there already.
        """
        shared = shared_weight(self._model) if training else None
        are_dropped = is_new and isinstance(self._model, FSDPModule)
        before = [
            (parameter, parameter.grad)
            for parameter in self._model.parameters()
            if parameter.grad is not None and (are_dropped or parameter is shared)
        ]
        for parameter, _ in before:
            parameter.grad = None
        yield
        if shared is not None and shared.requires_grad:
            _exchange_gradient(shared, self._gang)
        for parameter, gradient in before:
            added = placed_gradient(parameter)
            parameter.grad = gradient if added is None else added.add_(gradient)

    def _filled_up(
        self, token_ids: Tensor, targets: Tensor, padding_mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """A batch with rows and columns more that count nothing.

        Microbatches have to be of one size, and of the same on all ranks that share the data: FSDP puts layers together
        for each, and once more where a schedule sets up what is sent.
        """
        rows, length = token_ids.shape
        sizes = torch.tensor([-(-rows // self._microbatches), length, padding_mask is not None], device=self._device)
        if self._dp.size > 1:
            dist.all_reduce(sizes, dist.ReduceOp.MAX, group=self._dp.group)
        most_rows, most_length, has_mask = sizes.tolist()
        more = (0, most_length - length, 0, most_rows * self._microbatches - rows)
        if has_mask and padding_mask is None:
            padding_mask = torch.ones_like(token_ids, dtype=torch.bool)
        # What stands in for tokens comes after them, where they do not see it.
        mask = None if padding_mask is None else pad(padding_mask, more, value=False)
        return pad(token_ids, more), pad(targets, more, value=IGNORED), mask

    def _schedule(self, token_ids: Tensor, *, has_mask: bool, training: bool) -> tuple[bool, PipelineScheduleSingle]:
        """The schedule for batches of this shape, and whether it is a new one, which still sets up what is sent."""
        from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

        key = (*token_ids.shape, has_mask, training)
        schedule = self._schedules.pop(key, None)
        is_new = schedule is None
        if schedule is None:
            stage = PipelineStage(self._model, self._gang.rank, self._gang.size, self._device, group=self._gang.group)
            kind = Schedule1F1B if training and alternates(self._microbatches, self._gang.size) else ScheduleGPipe
            schedule = kind(stage, self._microbatches, loss_fn=self._loss, scale_grads=False)
        self._schedules[key] = schedule  # the last one, so that the one that was not used for longest is the first
        if len(self._schedules) > REMEMBERED:
            del self._schedules[next(iter(self._schedules))]
        return is_new, schedule


def _exchange_gradient(weight: nn.Parameter, gang: Gang) -> None:
    """Give a weight that the first stage and the last have the sum of what either has left in its gradient.

    Both then have the same, bit for bit, so that the optimizers of both change it alike.
    """
    gradient, group = placed_gradient(weight), gang.group
    assert gradient is not None
    assert group is not None
    own = local(gradient)
    other = torch.empty_like(own)
    peer = dist.get_global_rank(group, gang.size - 1 - gang.rank)
    ways = ((dist.isend, own), (dist.irecv, other))
    for work in dist.batch_isend_irecv([dist.P2POp(way, part, peer, group) for way, part in ways]):
        work.wait()
    own.add_(other)

"""Training a decoder that is cut into stages."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kinfold.parallel.gangs import Gangs
from kinfold.parallel.loss import IGNORED
from kinfold.parallel.pipeline import Pipeline
from kinfold.training.batch import SequenceBatch
from kinfold.training.unit import AbstractTrainUnit


class PipelinedUnit(AbstractTrainUnit[SequenceBatch]):
    """The next token, at every position that is a target, through all stages.

    It is called for a loss alone. A `Trainer` asks it for gradients, since microbatches go forwards and backwards
    through the stages by a schedule of their own.

    Args:
        model: The stage of this rank: a decoder, after `keep_stage`.
        gangs: What it was spread over.
        loss: From logits, (B, S, V), and targets, int64 (B, S), to the sum of losses; targets are `IGNORED` where
            nothing is to be predicted.
        microbatches: How many a batch is cut into.
    """

    def __init__(
        self, model: nn.Module, gangs: Gangs, loss: Callable[[Tensor, Tensor], Tensor], *, microbatches: int
    ) -> None:
        super().__init__(model)
        self._loss = loss
        self._divisor = 1.0
        self._pipeline = Pipeline(model, gangs, self._divided, microbatches=microbatches)

    def __call__(self, batch: SequenceBatch) -> tuple[Tensor, int]:
        self._divisor = 1.0
        inputs, targets, num_targets = self._parts(batch)
        return self._pipeline.evaluate(inputs.seqs, targets, inputs.padding_mask), num_targets

    def add_gradient(
        self, batch: SequenceBatch, divisor: Callable[[int], float], *, counts: bool = True
    ) -> tuple[Tensor, int]:
        """As `StagedUnit` has it."""
        inputs, targets, num_targets = self._parts(batch)
        if not counts:
            targets = torch.full_like(targets, IGNORED)
        self._divisor = divisor(num_targets)
        loss = self._pipeline.backward(inputs.seqs, targets, inputs.padding_mask)
        return loss * self._divisor, num_targets

    def _divided(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self._loss(logits, targets) / self._divisor

    def _parts(self, batch: SequenceBatch) -> tuple[SequenceBatch, Tensor, int]:
        inputs, targets = batch.as_auto_regressive()
        return inputs, targets.targets, targets.num_target_elements()

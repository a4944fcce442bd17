"""The memory of every rank of a layout, estimated in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from kinfold.errors import ParallelError
from kinfold.parallel.estimate.layout import Kernels, Layout, Optimizer, Workload
from kinfold.parallel.estimate.parts import Blueprint, Sharder
from kinfold.parallel.estimate.stage import Stage
from kinfold.parallel.gangs import pretended_gangs
from kinfold.parallel.stages import stage_faults

KINDS = ("parameters", "gradients", "optimizer", "working", "activations")
"""What there is in the memory of a rank."""

_OPTIMIZER_BYTES = {"adamw": 8, "sgd": 0, "none": 0}
"""What optimizers keep for each value that they train, in float32."""


@dataclass(frozen=True, slots=True)
class RankMemory:
    """The bytes that one rank needs.

    Attributes:
        rank: Which one.
        stage: Its pipeline stage.
        parameters: Its weights, as they are kept.
        gradients: Theirs.
        optimizer: What the optimizer keeps.
        working: Weights as they compute: layers that FSDP has put together, with their gradients; or casts of all.
        activations: What is kept for the backward pass, or for later tokens, and the most that is there besides.
    """

    rank: int
    stage: int
    parameters: int
    gradients: int
    optimizer: int
    working: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(getattr(self, kind) for kind in KINDS)


def estimate_memory(
    create: Callable[..., nn.Module],
    config: Any,
    *,
    tp: int = 1,
    dp: int = 1,
    pp: int = 1,
    seq_len: int | None = None,
    batch_size: int = 1,
    dtype: torch.dtype = torch.bfloat16,
    optimizer: Optimizer = "adamw",
    sequence_parallel: bool = False,
    spread_logits: bool = True,
    activation_checkpointing: bool = False,
    microbatches: int | None = None,
    kernels: Kernels = "gpu",
    sharder: Sharder | None = None,
) -> list[RankMemory]:
    """The memory of every rank, without memory: nothing is allocated, and no other process is needed.

    Args:
        create: Makes the model: `create(config, device="meta", dtype=...)`.
        config: Its config.
        tp: Ranks that share each tensor.
        dp: Ranks that share the data, and by FSDP the weights.
        pp: Stages.
        seq_len: Tokens of a sequence; the config's `max_seq_len` if None.
        sharder: Spreads the model, `sharder(model, config, gangs)`; None for one made of the parts of `kinfold.nn`.

    The other arguments are those of a `Workload`.

    Raises:
        ParallelError: The model, or what it is to compute, cannot be divided so; lists everything.
    """
    work = Workload(
        seq_len=config.max_seq_len if seq_len is None else seq_len,
        batch_size=batch_size,
        dtype=dtype,
        optimizer=optimizer,
        sequence_parallel=sequence_parallel,
        spread_logits=spread_logits,
        activation_checkpointing=activation_checkpointing,
        microbatches=microbatches,
        kernels=kernels,
    )
    return Estimator(Blueprint(create, config, sharder), work).ranks(Layout(tp, dp, pp))


class Estimator:
    """Estimates of one model for many layouts: what they have in common is measured once.

    Args:
        blueprint: How to make the model.
        work: What it computes.
    """

    def __init__(self, blueprint: Blueprint, work: Workload) -> None:
        self.blueprint = blueprint
        self.work = work
        self._parts = cache(partial(blueprint.parts, work))
        self._tensor_faults = cache(self._find_tensor_faults)
        self._whole = cache(blueprint.whole)
        self._stage = cache(self._make_stage)

    def ranks(self, layout: Layout) -> list[RankMemory]:
        """The memory of every rank.

        Raises:
            ParallelError: The model, or what it is to compute, cannot be divided so; lists everything.
        """
        if faults := self.faults(layout):
            raise ParallelError(f"This {self._name} cannot be spread by {layout}:", faults=faults)
        return [self._rank(layout, rank) for rank in range(layout.ranks)]

    def fullest(self, layout: Layout) -> RankMemory:
        """That of the rank that needs most: one of the first of a stage, which have all that others have."""
        firsts = range(0, layout.ranks, layout.dp * layout.tp)
        return max((self._rank(layout, rank) for rank in firsts), key=lambda memory: memory.total)

    def faults(self, layout: Layout) -> list[str]:
        """Everything that keeps a layout from being one."""
        faults = list(layout.faults())
        if not faults:
            faults += self._tensor_faults(layout.tp)
            faults += [f"pp = {layout.pp}: {fault}" for fault in self._stage_faults(layout.pp)]
            faults += self.work.faults(layout)
        return faults

    @property
    def num_parameters(self) -> int:
        """How many values the whole model has."""
        return sum(parameter.numel() for parameter in self._whole().parameters())

    @property
    def _name(self) -> str:
        return type(self._whole()).__name__

    def _stage_faults(self, pp: int) -> Iterator[str]:
        return stage_faults(self._whole(), pp) if pp > 1 else iter(())

    def _find_tensor_faults(self, tp: int) -> list[str]:
        """What of the model cannot be divided among so many ranks."""
        with pretended_gangs(tp=tp) as gangs:
            try:
                self.blueprint.shard(self.blueprint.reduced()[0], gangs)
            except ParallelError as error:
                return [f"tp = {tp}: {fault}" for fault in error.faults or [error.summary]]
        return []

    def _rank(self, layout: Layout, rank: int) -> RankMemory:
        number, dp_rank, tp_rank = layout.place(rank)
        stage = self._stage(layout, number)
        shares = {"tp": (tp_rank, layout.tp), "dp": (dp_rank, layout.dp)}
        trained = stage.numel(shares, trained=True) if self.work.trains else 0
        activations, working = stage.peak(tp_rank)
        itemsize = self.work.kept_dtype.itemsize
        return RankMemory(
            rank=rank,
            stage=number,
            parameters=stage.numel(shares, trained=False) * itemsize + stage.buffers,
            gradients=trained * itemsize,
            optimizer=trained * _OPTIMIZER_BYTES[self.work.optimizer],
            working=working,
            activations=activations,
        )

    def _make_stage(self, layout: Layout, number: int) -> Stage:
        sequences = self.work.batch_size // self.work.microbatches_of(layout)
        parts = self._parts(tp=layout.tp, sequences=sequences, gathered=layout.dp > 1)
        return Stage(parts, self.work, layout, number)


def readable(nbytes: int) -> str:
    """A number of bytes for people, by units of 1000: "81.2 GB"."""
    units = {"GB": 10**9, "MB": 10**6, "KB": 10**3}
    unit = next((unit for unit, size in units.items() if nbytes >= size), None)
    return f"{nbytes / units[unit]:,.1f} {unit}" if unit else f"{nbytes} B"

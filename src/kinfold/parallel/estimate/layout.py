"""What an estimate is of: how ranks are laid out, and what each of them computes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

Optimizer = Literal["adamw", "sgd", "none"]
"""What weights are trained with, and keeps two values for each or none; "none" trains nothing, and decodes."""

Kernels = Literal["gpu", "cpu"]
"""Whose kernels compute: those of GPUs keep less for the backward pass."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How many ranks share what.

    Attributes:
        tp: Ranks that share each tensor.
        dp: Ranks that share the data, and with FSDP the weights.
        pp: Stages, which share the layers.
    """

    tp: int = 1
    dp: int = 1
    pp: int = 1

    @property
    def ranks(self) -> int:
        """How many ranks there are."""
        return self.tp * self.dp * self.pp

    def place(self, rank: int) -> tuple[int, int, int]:
        """The stage of a rank, and which it is of those that share data and tensors, as `setup_gangs` counts."""
        return rank // (self.dp * self.tp), rank // self.tp % self.dp, rank % self.tp

    def faults(self) -> Iterator[str]:
        """Sizes that there cannot be."""
        for name in ("tp", "dp", "pp"):
            size = getattr(self, name)
            if type(size) is not int or size < 1:
                yield f"{name} = {size!r}: must be an int above 0"

    def __str__(self) -> str:
        return f"tp={self.tp} dp={self.dp} pp={self.pp}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What each rank computes.

    Attributes:
        seq_len: Tokens of a sequence; of a source as many.
        batch_size: Sequences that ranks that share tensors and layers compute together.
        dtype: What is computed in, in training by autocast, as the `Trainer` does. Weights that are trained are kept
            in float32, as are their gradients and what the optimizer keeps; others in this dtype.
        optimizer: What weights are trained with; "none" for decoding with cached keys and values.
        sequence_parallel: Vectors between blocks are spread along the sequence over the ranks of `tp`.
        spread_logits: In training logits stay spread over the vocabulary, as in the recipes.
        activation_checkpointing: Of each layer only what it is given is kept, and the rest computed again.
        microbatches: How many a batch is cut into where there are stages; None for one a sequence.
        kernels: Whose kernels compute.
    """

    seq_len: int
    batch_size: int = 1
    dtype: torch.dtype = torch.bfloat16
    optimizer: Optimizer = "adamw"
    sequence_parallel: bool = False
    spread_logits: bool = True
    activation_checkpointing: bool = False
    microbatches: int | None = None
    kernels: Kernels = "gpu"

    @property
    def trains(self) -> bool:
        """Whether there are gradients."""
        return self.optimizer != "none"

    @property
    def kept_dtype(self) -> torch.dtype:
        """What weights are kept in."""
        return torch.float32 if self.trains else self.dtype

    @property
    def autocasts(self) -> bool:
        """Whether operations are computed in another dtype than weights are kept in."""
        return self.dtype != self.kept_dtype

    def weights_dtype(self, *, gathered: bool) -> torch.dtype:
        """What weights are in as they compute; those that FSDP has gathered are cast before."""
        return self.dtype if gathered else self.kept_dtype

    def microbatches_of(self, layout: Layout) -> int:
        """How many parts a batch is computed in."""
        return 1 if layout.pp == 1 else self.microbatches or self.batch_size

    def faults(self, layout: Layout) -> Iterator[str]:
        """What cannot be computed by ranks that are laid out so; the layout itself is sound."""
        counts = {"seq_len": self.seq_len, "batch_size": self.batch_size, "microbatches": self.microbatches or 1}
        wrong = [f"{name} = {count}: must be above 0" for name, count in counts.items() if count < 1]
        yield from wrong
        if wrong:
            return
        if self.sequence_parallel and self.seq_len % layout.tp:
            fitting = -(-self.seq_len // layout.tp) * layout.tp
            yield (
                f"sequence parallel: {self.seq_len} tokens cannot be divided among tp={layout.tp} ranks; "
                f"{fitting} would do"
            )
        if self.batch_size % (parts := self.microbatches_of(layout)):
            fitting = ", ".join(str(n) for n in range(1, self.batch_size + 1) if self.batch_size % n == 0)
            yield f"batch_size = {self.batch_size} cannot be cut into {parts} microbatches; {fitting} would do"

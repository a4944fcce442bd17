"""What a model is trained on: sequences of tokens, padded to one length."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kinfold.errors import TrainingError
from kinfold.parallel.loss import IGNORED


@dataclass(frozen=True, eq=False)
class SequenceBatch:
    """Sequences of tokens. Below, B is the batch and S the length of the longest sequence.

    Attributes:
        seqs: The tokens, int64, (B, S).
        padding_mask: bool, (B, S), True where there is a token; None if there is one everywhere.
        target_mask: bool, (B, S), True for tokens that are to be predicted; None for every token that is no padding.
        source: What the sequences are made from, with an encoder-decoder; None without one.

    Raises:
        TrainingError: Lists every shape and dtype that is wrong.
    """

    seqs: Tensor
    padding_mask: Tensor | None = None
    target_mask: Tensor | None = None
    source: SequenceBatch | None = None

    def __post_init__(self) -> None:
        faults = []
        if self.seqs.dim() != 2 or self.seqs.dtype != torch.int64:
            faults.append(f"seqs is {_described(self.seqs)}: must be torch.int64 (batch, seq)")
        for name, mask in (("padding_mask", self.padding_mask), ("target_mask", self.target_mask)):
            if mask is not None and (mask.shape != self.seqs.shape or mask.dtype != torch.bool):
                faults.append(f"{name} is {_described(mask)}: must be torch.bool {tuple(self.seqs.shape)}")
        if self.source is not None and self.source.batch_size != self.batch_size:
            faults.append(f"source has {self.source.batch_size} sequences: must have {self.batch_size}")
        if faults:
            raise TrainingError("These sequences make no batch:", faults=faults)

    @property
    def batch_size(self) -> int:
        """The number of sequences."""
        return self.seqs.shape[0]

    @property
    def is_target(self) -> Tensor:
        """bool, (B, S), True for tokens that are to be predicted."""
        if self.target_mask is None:
            return torch.ones_like(self.seqs, dtype=torch.bool) if self.padding_mask is None else self.padding_mask
        return self.target_mask if self.padding_mask is None else self.target_mask & self.padding_mask

    @property
    def targets(self) -> Tensor:
        """int64, (B, S): the tokens, and `IGNORED` where nothing is to be predicted."""
        return self.seqs.masked_fill(~self.is_target, IGNORED)

    def num_elements(self) -> int:
        """The number of tokens that are no padding."""
        return self.seqs.numel() if self.padding_mask is None else int(self.padding_mask.sum())

    def num_target_elements(self) -> int:
        """The number of tokens that are to be predicted."""
        return self.num_elements() if self.target_mask is None else int(self.is_target.sum())

    def to(self, device: torch.device | str) -> SequenceBatch:
        """The same batch on a device."""
        return SequenceBatch(
            self.seqs.to(device),
            None if self.padding_mask is None else self.padding_mask.to(device),
            None if self.target_mask is None else self.target_mask.to(device),
            None if self.source is None else self.source.to(device),
        )

    def as_auto_regressive(self) -> tuple[SequenceBatch, SequenceBatch]:
        """What a decoder is given, and what it is to say: all but the last token, and all but the first.

        Returns:
            The inputs, which have the source, and the targets, which have the target mask; both (B, S - 1).

        Raises:
            TrainingError: There are fewer than two tokens in a row.
        """
        if self.seqs.shape[1] < 2:
            raise TrainingError(f"Nothing can be predicted in sequences of {self.seqs.shape[1]} tokens: 2 are needed.")
        padding, target = self.padding_mask, self.target_mask
        inputs = SequenceBatch(self.seqs[:, :-1], None if padding is None else padding[:, :-1], source=self.source)
        targets = SequenceBatch(
            self.seqs[:, 1:], None if padding is None else padding[:, 1:], None if target is None else target[:, 1:]
        )
        return inputs, targets


def _described(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}"

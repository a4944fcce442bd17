"""The loss that the recipes train with."""

from __future__ import annotations

from torch import Tensor

from kinfold.parallel.loss import IGNORED, cross_entropy
from kinfold.training import SequenceBatch


def summed_loss(logits: Tensor, targets: SequenceBatch, *, label_smoothing: float = 0.0) -> tuple[Tensor, int]:
    """The cross-entropy of the tokens that are to be predicted, summed, and how many there are.

    Args:
        logits: (B, S, V), whole or spread over the vocabulary.
        targets: The tokens, (B, S), with the masks that say which count.
        label_smoothing: The share of probability spread evenly over the vocabulary (Szegedy et al. 2016, section 7).
    """
    loss = summed_cross_entropy(logits, targets.targets, label_smoothing=label_smoothing)
    return loss, targets.num_target_elements()


def summed_cross_entropy(logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """The cross-entropy of logits, (B, S, V), and targets, int64 (B, S), summed over all that are not `IGNORED`."""
    return cross_entropy(logits, targets, reduction="sum", ignore_index=IGNORED, label_smoothing=label_smoothing)

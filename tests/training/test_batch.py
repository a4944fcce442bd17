"""Batches of sequences."""

from __future__ import annotations

import pytest
import torch

from kinfold.errors import TrainingError
from kinfold.training import SequenceBatch

SEQS = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]])
PADDING = torch.tensor([[True, True, True, True], [True, True, False, False]])
TARGET = torch.tensor([[False, False, True, True], [False, True, False, False]])


def test_a_decoder_is_given_all_but_the_last_token_and_is_to_say_all_but_the_first() -> None:
    source = SequenceBatch(torch.tensor([[7, 8], [9, 9]]))
    inputs, targets = SequenceBatch(SEQS, PADDING, TARGET, source).as_auto_regressive()
    assert inputs.seqs.tolist() == [[1, 2, 3], [5, 6, 0]]
    assert targets.seqs.tolist() == [[2, 3, 4], [6, 0, 0]]
    assert inputs.padding_mask is not None
    assert inputs.padding_mask.tolist() == [[True, True, True], [True, True, False]]
    assert targets.is_target.tolist() == [[False, True, True], [True, False, False]]
    assert (inputs.source, inputs.target_mask, targets.source) == (source, None, None)
    assert (targets.num_elements(), targets.num_target_elements()) == (4, 3)


def test_every_token_that_is_no_padding_is_a_target_unless_a_mask_says_otherwise() -> None:
    assert SequenceBatch(SEQS).num_target_elements() == SequenceBatch(SEQS).num_elements() == 8
    assert bool(SequenceBatch(SEQS).is_target.all())
    assert SequenceBatch(SEQS, PADDING).num_target_elements() == 6
    assert SequenceBatch(SEQS, PADDING).is_target is PADDING
    beyond = SequenceBatch(SEQS, PADDING, torch.ones_like(PADDING))
    assert beyond.num_target_elements() == 6
    assert torch.equal(beyond.is_target, PADDING)


def test_a_batch_moves_with_its_masks_and_its_source() -> None:
    moved = SequenceBatch(SEQS, PADDING, TARGET, SequenceBatch(SEQS, PADDING)).to("meta")
    assert moved.source is not None
    tensors = (moved.seqs, moved.padding_mask, moved.target_mask, moved.source.seqs, moved.source.padding_mask)
    assert {tensor.device.type for tensor in tensors if tensor is not None} == {"meta"}


def test_every_tensor_that_does_not_fit_is_named() -> None:
    with pytest.raises(TrainingError) as caught:
        SequenceBatch(SEQS, PADDING.long(), TARGET[:, 1:], SequenceBatch(SEQS[:1]))
    assert caught.value.faults == (
        "padding_mask is torch.int64 (2, 4): must be torch.bool (2, 4)",
        "target_mask is torch.bool (2, 3): must be torch.bool (2, 4)",
        "source has 1 sequences: must have 2",
    )
    with pytest.raises(TrainingError, match=r"seqs is torch.float32 \(4,\): must be torch.int64 \(batch, seq\)"):
        SequenceBatch(torch.ones(4))


def test_a_single_token_predicts_nothing() -> None:
    with pytest.raises(TrainingError, match="sequences of 1 tokens"):
        SequenceBatch(SEQS[:, :1]).as_auto_regressive()

"""What is kept between passes, and what cannot follow on it."""

from __future__ import annotations

import pytest
import torch

from kinfold.errors import GenerationError
from kinfold.nn import DecodeState
from kinfold_zoo.llama import LlamaModel

TOKENS = torch.zeros(2, 4, dtype=torch.int64)


@pytest.mark.parametrize("chunks", [(11,), (5, 3, 1, 1, 1), (1,) * 11])
@torch.inference_mode()
def test_chunks_give_what_one_pass_gives(model: LlamaModel, token_ids: torch.Tensor, chunks: tuple[int, ...]) -> None:
    state = DecodeState(capacity=16)
    logits = torch.cat([model(part, state=state) for part in token_ids.split(list(chunks), dim=1)], dim=1)
    torch.testing.assert_close(logits, model(token_ids))


@torch.inference_mode()
def test_padding_is_kept(model: LlamaModel, token_ids: torch.Tensor) -> None:
    mask = torch.ones_like(token_ids, dtype=torch.bool)
    mask[0, :3] = False
    state = DecodeState(capacity=16)
    first = model(token_ids[:, :6], mask[:, :6], state)
    logits = torch.cat([first, *(model(token_ids[:, t : t + 1], state=state) for t in range(6, 11))], dim=1)
    torch.testing.assert_close(logits[0, 3:], model(token_ids[:1, 3:])[0])
    torch.testing.assert_close(logits[1], model(token_ids[1:])[0])


def test_positions_do_not_count_padding() -> None:
    state = DecodeState()
    state.extend(TOKENS, torch.tensor([[False, False, True, True], [True, True, True, False]]))
    assert state.positions().tolist() == [[0, 0, 0, 1], [0, 1, 2, 2]]


def test_a_state_without_capacity_serves_one_pass() -> None:
    state = DecodeState()
    state.extend(TOKENS)
    with pytest.raises(GenerationError, match=r"DecodeState\(capacity\)"):
        state.extend(TOKENS)


def test_all_faults_come_at_once() -> None:
    state = DecodeState(capacity=6)
    state.extend(TOKENS)
    with pytest.raises(GenerationError) as error:
        state.extend(TOKENS[:1], torch.ones(1, 3))
    assert error.value.faults == (
        "4 + 4 tokens exceed the capacity of 6",
        "the batch has 1 sequences, where it had 2",
        "the padding mask is torch.float32 (1, 3), and must be torch.bool (1, 4)",
    )
    assert state.length == 4


def test_a_state_takes_no_mask_of_another_shape_or_dtype() -> None:
    for mask in (torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 4), torch.ones(2, 4, dtype=torch.int64)):
        with pytest.raises(GenerationError, match=r"must be torch.bool \(2, 4\)"):
            DecodeState().extend(TOKENS, mask)


def test_what_is_computed_once_is_computed_anew_in_the_next_pass() -> None:
    state = DecodeState(capacity=8)
    state.extend(TOKENS)
    assert state.once("key", lambda: 1) == state.once("key", lambda: 2) == 1
    state.extend(TOKENS)
    assert state.once("key", lambda: 2) == 2


def test_token_counts_leave_padding_out() -> None:
    state = DecodeState(capacity=8)
    state.extend(TOKENS)
    assert state.token_counts() is None
    state.extend(TOKENS, torch.tensor([[False, False, True, True], [True, True, True, True]]))
    assert state.token_counts() == [6, 8]


def test_what_stands_in_for_a_token_sees_itself() -> None:
    """Some kernels give NaN for a query that sees nothing."""
    state = DecodeState()
    state.extend(TOKENS, torch.tensor([[False, False, True, True], [False] * 4]))
    mask, is_causal = state.attention_mask()
    assert mask is not None
    assert not is_causal
    assert mask[0, 0].int().tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]
    assert torch.equal(mask[1, 0], torch.eye(4, dtype=torch.bool))

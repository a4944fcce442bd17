"""Packing loses nothing and cuts nothing but where a sequence is full."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kinfold.recipes.packing import SHORTEST, pack, prompted

TOKENS = st.lists(st.integers(0, 2**40), max_size=12)


@given(st.lists(TOKENS, max_size=8), st.integers(SHORTEST, 9))
def test_all_that_is_packed_is_all_documents_one_after_the_other(documents: list[list[int]], max_seq_len: int) -> None:
    rows = [sample.tokens.tolist() for sample in pack(documents, max_seq_len)]
    tokens = [token for document in documents for token in document]
    if len(tokens) % max_seq_len == 1:
        tokens.pop()  # alone, it could predict nothing
    assert [token for row in rows for token in row] == tokens
    assert all(len(row) == max_seq_len for row in rows[:-1])
    assert all(SHORTEST <= len(row) <= max_seq_len for row in rows)


@given(TOKENS, TOKENS)
def test_of_a_prompt_and_a_completion_the_completion_is_to_be_predicted(prompt: list[int], new: list[int]) -> None:
    sample = prompted(prompt, new)
    assert sample.targets is not None
    assert sample.tokens.tolist() == prompt + new
    assert sample.tokens[sample.targets].tolist() == new

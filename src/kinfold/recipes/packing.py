"""From token ids to sequences of a length: documents are packed one after the other, pairs keep to themselves.

Attention is not kept from reaching into the document before, in the same sequence; the token that ends it has to say
where it ends, as in GPT-2 and its successors.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SHORTEST = 2
"""Tokens of a sequence at least: one to see and one to predict."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One sequence.

    Attributes:
        tokens: int64, (S,).
        targets: bool, (S,), True for tokens that are to be predicted; None for all.
        source: int64, (T,): what an encoder sees; None if there is none.
    """

    tokens: Tensor
    targets: Tensor | None = None
    source: Tensor | None = None


def pack(documents: Iterable[Sequence[int]], max_seq_len: int) -> list[Sample]:
    """Put documents one after the other, and cut what results into sequences of `max_seq_len`.

    Args:
        documents: Token ids, each document with what ends it.
        max_seq_len: The length of all sequences but the last, which has what is left over.

    Returns:
        The sequences. Nothing is lost but a single last token, from which nothing could be predicted.
    """
    tokens = array("q")
    for document in documents:
        tokens.extend(document)
    if not tokens:
        return []
    rows = torch.frombuffer(tokens, dtype=torch.int64).split(max_seq_len)
    return [Sample(row) for row in rows if len(row) >= SHORTEST]


def prompted(prompt: Sequence[int], completion: Sequence[int]) -> Sample:
    """One sequence of a prompt and a completion, of which the completion alone is to be predicted."""
    targets = torch.tensor([False] * len(prompt) + [True] * len(completion), dtype=torch.bool)
    return Sample(torch.tensor([*prompt, *completion], dtype=torch.int64), targets)

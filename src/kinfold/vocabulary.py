"""What a model and its tokenizer have to agree on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class VocabularyInfo:
    """The size of a vocabulary, and the numbers of its special tokens; None where there is no such token."""

    size: int
    """How many tokens there are."""

    unk_idx: int | None = None
    """Stands for what is not in the vocabulary."""

    bos_idx: int | None = None
    """Begins a sequence."""

    eos_idx: int | None = None
    """Ends a sequence."""

    pad_idx: int | None = None
    """Fills shorter sequences of a batch up."""

"""What a recipe trains on: sequences, what is to be said of them, and batches of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from kinfold.errors import TrainingError
from kinfold.recipes.packing import Sample
from kinfold.tokenizer import Tokenizer
from kinfold.training import SequenceBatch


@dataclass(frozen=True, slots=True)
class Data:
    """The sequences of a data set.

    Attributes:
        samples: The sequences.
        what: What they were made of, and how many of each: "documents".
        notes: What was left out, and why.
    """

    samples: list[Sample]
    what: Mapping[str, int]
    notes: tuple[str, ...] = ()

    @property
    def num_tokens(self) -> int:
        """Tokens of all sequences, those of sources included."""
        return sum(len(s.tokens) + (0 if s.source is None else len(s.source)) for s in self.samples)

    def digest(self) -> str:
        """What tells these sequences from any others."""
        digest = hashlib.sha256()
        for sample in self.samples:
            for part in (sample.tokens, sample.targets, sample.source):
                digest.update(b"-" if part is None else len(part).to_bytes(8, "little") + part.numpy().tobytes())
        return digest.hexdigest()

    def hold_out(self, share: float, seed: int) -> Split:
        """A part to train on and one to validate on, drawn at random; each keeps its order.

        Raises:
            TrainingError: One of them would be empty.
        """
        count = round(len(self.samples) * share)
        if not 0 < count < len(self.samples):
            raise TrainingError(
                f"A share of {share} of {len(self.samples)} sequences is {count}, which leaves nothing on one side.",
                hint="Choose another `valid_share`, or name `valid_data`.",
            )
        order = torch.randperm(len(self.samples), generator=torch.Generator().manual_seed(seed))
        held = set(order[:count].tolist())
        parts = ([s for n, s in enumerate(self.samples) if (n in held) is is_held] for is_held in (False, True))
        return Split(*(Data(part, self.what, self.notes) for part in parts))


@dataclass(frozen=True, slots=True)
class Split:
    """What to train on, and what to validate on if anything."""

    train: Data
    valid: Data | None = None

    @property
    def parts(self) -> dict[str, Data]:
        """Those that there are, by what they are for."""
        return {"training": self.train, **({"validation": self.valid} if self.valid is not None else {})}

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out of either, said once."""
        return tuple(dict.fromkeys(note for part in self.parts.values() for note in part.notes))

    def digests(self) -> dict[str, str]:
        """What tells the sequences of each part from any others."""
        return {name: part.digest() for name, part in self.parts.items()}

    def check(self, vocab_size: int | None) -> None:
        """Raise a `TrainingError` if there is nothing to predict, or a token that the model does not have."""
        for name, part in self.parts.items():
            if not part.samples:
                raise TrainingError(f"There is nothing to predict in the data for {name}.")
            highest = max(int(p.max()) for s in part.samples for p in (s.tokens, s.source) if p is not None)
            if vocab_size is not None and highest >= vocab_size:
                raise TrainingError(
                    f"The tokenizer gives the token {highest}, and the model has {vocab_size} tokens.",
                    hint="The card names a tokenizer that is not the model's.",
                )


def collate(samples: Sequence[Sample], pad_idx: int, *, multiple: int = 1) -> SequenceBatch:
    """A batch of sequences, the shorter ones padded on the right.

    Args:
        samples: The sequences.
        pad_idx: What they are padded with.
        multiple: What the lengths of sources, and of targets without the token that they begin with, are multiples of.
    """
    seqs, padding_mask = _padded([sample.tokens for sample in samples], pad_idx, multiple, beyond=1)
    target_mask, source = None, None
    if any(sample.targets is not None for sample in samples):
        masks = [torch.ones_like(s.tokens, dtype=torch.bool) if s.targets is None else s.targets for s in samples]
        target_mask, _ = _padded(masks, False, multiple, beyond=1)
    sources = [sample.source for sample in samples if sample.source is not None]
    if sources:
        source = SequenceBatch(*_padded(sources, pad_idx, multiple), target_mask=None, source=None)
    return SequenceBatch(seqs, padding_mask, target_mask=target_mask, source=source)


def special_token(tokenizer: Tokenizer, said: str | None, own: int | None, setting: str) -> int:
    """The number of a special token: the one that was said, else the tokenizer's own.

    Raises:
        TrainingError: It is not known.
    """
    if said is None:
        if own is None:
            raise TrainingError(f"The tokenizer does not say its `{setting}`.", hint=f"Say it: `{setting}`.")
        return own
    number = tokenizer.backend.token_to_id(said)
    if number is None:
        raise TrainingError(f"`{setting}` = {said!r} is no token of the tokenizer.")
    return number


def too_long_note(count: int, total: int, max_seq_len: int) -> tuple[str, ...]:
    """What is said of pairs that were left out because they are too long; nothing if there are none.

    Raises:
        TrainingError: All of them are.
    """
    if count and count == total:
        raise TrainingError(f"All pairs ({total}) are longer than {max_seq_len} tokens.", hint="Raise `max_seq_len`.")
    return (f"pairs of more than {max_seq_len} tokens that are left out: {count} of {total}",) if count else ()


def _padded(rows: Sequence[Tensor], padding: int, multiple: int, *, beyond: int = 0) -> tuple[Tensor, Tensor | None]:
    """Rows as one tensor, (B, S), and where it has tokens, bool, (B, S); None if everywhere.

    S is a multiple, and what is `beyond`.
    """
    seqs = pad_sequence(list(rows), batch_first=True, padding_value=padding)
    seqs = pad(seqs, (0, -(seqs.shape[1] - beyond) % multiple), value=padding)
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(seqs.shape[1]) < lengths[:, None]
    return seqs, None if bool(mask.all()) else mask

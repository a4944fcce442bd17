"""The recipe `seq2seq`: an encoder-decoder learns targets from their sources.

python -m kinfold.recipes.seq2seq --model CARD --data FILE_OR_FOLDER ...
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from kinfold.errors import TrainingError
from kinfold.recipes.config import Seq2SeqConfig
from kinfold.recipes.data import Data, special_token, too_long_note
from kinfold.recipes.fit import Recipe
from kinfold.recipes.loss import summed_loss
from kinfold.recipes.packing import Sample
from kinfold.recipes.run import Outcome, Say, run
from kinfold.recipes.text import Pair, read_pairs
from kinfold.tokenizer import Tokenizer
from kinfold.training import AbstractTrainUnit, SequenceBatch

_LANGUAGE = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}|__[a-z]{2,3}__")
"""What tokens that stand for languages look like: `eng_Latn` of NLLB, `__en__` of M2M-100."""


def train(config: Seq2SeqConfig, *, card_folder: Path | None = None, say: Say = print) -> Outcome:
    """Train as `config` says, or go on where that was left off.

    Arguments and errors are those of `kinfold.recipes.lm.train`.
    """
    make_unit = partial(Seq2SeqUnit, label_smoothing=config.label_smoothing)
    recipe = Recipe(
        "seq2seq",
        ("source_ids", "token_ids"),
        partial(read_data, config),
        make_unit,
        lambda tokenizer: f" --start {shlex.quote(PairEncoder.of(config, tokenizer).start)}",
    )
    return run(config, recipe, card_folder=card_folder, say=say)


class Seq2SeqUnit(AbstractTrainUnit[SequenceBatch]):
    """The next token of the target, from the source and the target so far (teacher forcing).

    Args:
        model: Called as `model(source_ids, token_ids, source_padding_mask=, padding_mask=)`; gives logits, (B, T, V).
        label_smoothing: The share of probability spread over the vocabulary.
    """

    def __init__(self, model: nn.Module, *, label_smoothing: float = 0.0) -> None:
        super().__init__(model)
        self._label_smoothing = label_smoothing

    def __call__(self, batch: SequenceBatch) -> tuple[Tensor, int]:
        if batch.source is None:
            raise TrainingError("A batch without sources cannot train an encoder-decoder.")
        inputs, targets = batch.as_auto_regressive()
        logits = self.model(
            batch.source.seqs,
            inputs.seqs,
            source_padding_mask=batch.source.padding_mask,
            padding_mask=inputs.padding_mask,
        )
        return summed_loss(logits, targets, label_smoothing=self._label_smoothing)


def read_data(config: Seq2SeqConfig, tokenizer: Tokenizer, path: str, max_seq_len: int) -> Data:
    """One sequence a pair, of which neither source nor target has more than `max_seq_len` tokens.

    Raises:
        TrainingError: A special token is not known, or texts begin with no language where they have to.
    """
    corpus = read_pairs(path, source_field=config.source_field, target_field=config.target_field)
    encoder = PairEncoder.of(config, tokenizer)
    pairs = [item for item in corpus.items if isinstance(item, Pair)]
    samples = [encoder.encode(pair) for pair in pairs]
    encoder.check_languages(samples)
    fitting = [s for s in samples if s.source is not None and max(len(s.tokens), len(s.source)) <= max_seq_len]
    notes = (*corpus.notes, *too_long_note(len(samples) - len(fitting), len(samples), max_seq_len))
    return Data(fitting, {"pairs": len(pairs)}, notes)


@dataclass(frozen=True, slots=True)
class PairEncoder:
    """How a pair becomes tokens: `[language] source eos`, and `start [language] target eos`.

    Where there are no languages, the source is as the tokenizer, and so `scaffold generate`, encodes a text.

    Attributes:
        tokenizer: The tokenizer.
        eos_idx: Ends both.
        start_idx: What the decoder begins with.
        source_language: Put before sources, if said.
        target_language: Put before targets, if said.
        languages: The tokens of languages that there are.
    """

    tokenizer: Tokenizer
    eos_idx: int
    start_idx: int
    source_language: int | None
    target_language: int | None
    languages: frozenset[int]

    @classmethod
    def of(cls, config: Seq2SeqConfig, tokenizer: Tokenizer) -> PairEncoder:
        """The encoder that a config asks for; every special token that is not known is an error."""
        info = tokenizer.vocab_info
        added = tokenizer.backend.get_added_tokens_decoder()
        languages = frozenset(number for number, token in added.items() if _LANGUAGE.fullmatch(token.content))
        eos_idx = special_token(tokenizer, config.eos_token, info.eos_idx, "eos_token")
        own_start = tokenizer.decoder_start_token_id
        if own_start is None:
            own_start = eos_idx if languages or info.bos_idx is None else info.bos_idx
        said = {name: getattr(config, name) for name in ("source_language", "target_language")}
        return cls(
            tokenizer=tokenizer,
            eos_idx=eos_idx,
            start_idx=special_token(tokenizer, config.decoder_start_token, own_start, "decoder_start_token"),
            languages=languages,
            **{name: special_token(tokenizer, s, None, name) if s else None for name, s in said.items()},
        )

    @property
    def start(self) -> str:
        """What comes before each target, special tokens spelled out."""
        before = [self.start_idx, *([] if self.target_language is None else [self.target_language])]
        return "".join(str(self.tokenizer.backend.id_to_token(number)) for number in before)

    def encode(self, pair: Pair) -> Sample:
        """The tokens of a pair."""
        source = self._ended(self.source_language, pair.given) if self.languages else self.tokenizer.encode(pair.given)
        target = self._ended(self.target_language, pair.wanted)
        return Sample(torch.tensor([self.start_idx, *target]), source=torch.tensor(source, dtype=torch.int64))

    def check_languages(self, samples: list[Sample]) -> None:
        """Raise a `TrainingError` if there are tokens of languages, and texts that begin with none."""
        faults = []
        for name, place in (("source_language", 0), ("target_language", 1)):
            firsts = [(s.tokens if place else s.source)[place] for s in samples if s.source is not None]
            count = sum(int(first) not in self.languages for first in firsts)
            if self.languages and count:
                faults.append(f"{count} of {len(samples)} have none in front, and there is no `{name}`")
        if faults:
            raise TrainingError(
                "The tokenizer has tokens for languages, with which source and target have to begin:",
                faults=faults,
                hint="Say `source_language` and `target_language`, or begin the texts with such a token.",
            )

    def _ended(self, language: int | None, text: str) -> list[int]:
        """The tokens of a text alone, after that of its language if that is said, and before the one that ends it."""
        token_ids = self.tokenizer.encode(text, add_special_tokens=False)
        before = [] if language is None else [language]
        return [*before, *token_ids, *([] if token_ids[-1:] == [self.eos_idx] else [self.eos_idx])]


if __name__ == "__main__":
    from kinfold.recipes.command import main

    main("seq2seq")

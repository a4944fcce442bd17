"""The recipe `lm`: a decoder learns texts, or what is to follow on prompts.

python -m kinfold.recipes.lm --model CARD --data FILE_OR_FOLDER ...
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from torch import Tensor

from kinfold.recipes.config import LmConfig
from kinfold.recipes.data import Data, special_token, too_long_note
from kinfold.recipes.fit import Recipe
from kinfold.recipes.loss import summed_loss
from kinfold.recipes.packing import Sample, pack, prompted
from kinfold.recipes.run import Outcome, Say, run
from kinfold.recipes.text import Document, Pair, read_texts
from kinfold.tokenizer import Tokenizer
from kinfold.training import AbstractTrainUnit, SequenceBatch


def train(config: LmConfig, *, card_folder: Path | None = None, say: Say = print) -> Outcome:
    """Train as `config` says, or go on where that was left off.

    Args:
        config: What to do.
        card_folder: Where the card goes if the config does not say; the user's folder of cards if None.
        say: Called with each line of what is done.

    Raises:
        ConfigError: Values of the config cannot be, or differ from those that the folder was begun with.
        TrainingError: The data cannot be read, or the loss is no number any more.
        CardError: The model is not found, or the name of the outcome is taken.
    """
    recipe = Recipe("lm", ("token_ids",), partial(read_data, config), LmUnit)
    return run(config, recipe, card_folder=card_folder, say=say)


class LmUnit(AbstractTrainUnit[SequenceBatch]):
    """The next token, at every position that is a target."""

    def __call__(self, batch: SequenceBatch) -> tuple[Tensor, int]:
        inputs, targets = batch.as_auto_regressive()
        return summed_loss(self.model(inputs.seqs, inputs.padding_mask), targets)


def read_data(config: LmConfig, tokenizer: Tokenizer, path: str, max_seq_len: int) -> Data:
    """Sequences of at most `max_seq_len` tokens: documents packed, then pairs of prompt and completion one by one."""
    eos_idx = special_token(tokenizer, config.eos_token, tokenizer.vocab_info.eos_idx, "eos_token")
    corpus = read_texts(
        path,
        text_field=config.text_field,
        prompt_field=config.prompt_field,
        completion_field=config.completion_field,
    )
    documents = [item for item in corpus.items if isinstance(item, Document)]
    pairs = [item for item in corpus.items if isinstance(item, Pair)]
    packed = pack((_document(tokenizer, item.text, eos_idx) for item in documents), max_seq_len)
    samples = [_pair(tokenizer, item, eos_idx) for item in pairs]
    fitting = [sample for sample in samples if len(sample.tokens) <= max_seq_len]
    return Data(
        samples=[*packed, *fitting],
        what={"documents": len(documents), "pairs": len(pairs)},
        notes=(*corpus.notes, *too_long_note(len(samples) - len(fitting), len(samples), max_seq_len)),
    )


def _document(tokenizer: Tokenizer, text: str, eos_idx: int) -> list[int]:
    token_ids = tokenizer.encode(text)
    return token_ids if token_ids[-1:] == [eos_idx] else [*token_ids, eos_idx]


def _pair(tokenizer: Tokenizer, pair: Pair, eos_idx: int) -> Sample:
    """The prompt as it will be encoded when the model is asked, and what is to follow on it."""
    prompt = tokenizer.encode(pair.given)
    if prompt[-1:] == [eos_idx]:
        prompt = prompt[:-1]
    return prompted(prompt, [*tokenizer.encode(pair.wanted, add_special_tokens=False), eos_idx])


if __name__ == "__main__":
    from kinfold.recipes.command import main

    main("lm")

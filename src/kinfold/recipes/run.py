"""What all recipes do: card, data and config -> a trained model with a card of its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import torch

from kinfold.assets import user_cards_folder
from kinfold.errors import ConfigError, TrainingError
from kinfold.parallel import Gangs
from kinfold.recipes.card import check_name, write_outcome
from kinfold.recipes.config import RecipeConfig
from kinfold.recipes.data import Split
from kinfold.recipes.fit import Recipe, make_trainer
from kinfold.recipes.folder import RunFolder
from kinfold.recipes.layout import lay_out
from kinfold.recipes.outcome import save_model
from kinfold.recipes.report import describe
from kinfold.recipes.settings import checked, is_path
from kinfold.recipes.start import Start, started
from kinfold.training import TrainingResult, newest_checkpoint
from kinfold.training.ranks import Ranks

Say = Callable[[str], None]
"""Called with a line of what is done."""

MAX_SEQ_LEN = 1024
"""The length of sequences if none is said."""

C = TypeVar("C", bound=RecipeConfig)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run has come to.

    Attributes:
        folder: The folder of the run.
        training: How training ended; None if it had come to its end before.
        model: The folder of the trained model; None if the run was stopped.
        card: The file of its card; None if the run was stopped.
    """

    folder: Path
    training: TrainingResult | None
    model: Path | None = None
    card: Path | None = None


def run(config: RecipeConfig, recipe: Recipe, *, card_folder: Path | None, say: Say) -> Outcome:
    """Train, or go on where an earlier run of the same config was left off.

    Args:
        config: What to do.
        recipe: How.
        card_folder: Where the card goes if the config does not say; the user's folder of cards if None.
        say: Called with each line of what is done.
    """
    config = checked(config)
    with ExitStack() as stack:
        gangs = stack.enter_context(lay_out(config))
        stack.enter_context(gangs.guarding())
        ranks = Ranks(gangs)
        say = say if ranks.is_first else _silent
        start = ranks.together(lambda: stack.enter_context(started(config)))
        recipe.check_model(start.prepared.model)
        config = completed(config, recipe.name, start)
        start.check_layout(config, gangs)
        folder, name = RunFolder(Path(str(config.output))), str(config.name)
        cards = Path(config.card_folder) if config.card_folder else card_folder or user_cards_folder()
        ranks.first(lambda: folder.check(config))
        ranks.first(lambda: check_name(name, cards, folder.model))
        training = None
        if ranks.first(folder.model.exists):
            say(f"{folder.path} came to its end before.")
        else:
            training = _train(config, recipe, start, folder, gangs, say)
            if training.stopped:
                say(f"Stopped after step {training.step_nr}; the same command goes on.")
                return Outcome(folder.path, training)
        card = ranks.first(lambda: write_outcome(cards, name=name, start=start.card, model=folder.model))
    say(f"Model: {folder.model}")
    say(f"Card: {card}")
    say(f"Try it: scaffold generate {name} TEXT{recipe.generate_options(start.tokenizer)}")
    return Outcome(folder.path, training, folder.model, card)


def completed(config: C, recipe: str, start: Start) -> C:
    """The config with everything said that follows from the card.

    Raises:
        ConfigError: Sequences are to be longer than the model is made for.
    """
    name = config.name or f"{start.card.name}-{recipe}"
    longest = getattr(start.prepared.config, "max_seq_len", None)
    max_seq_len = config.max_seq_len or min(MAX_SEQ_LEN, longest or MAX_SEQ_LEN)
    if longest is not None and max_seq_len > longest:
        raise ConfigError(
            f"`max_seq_len` = {max_seq_len} is more than the {longest} tokens that {start.card.name} is made for.",
            hint="If it is made for more, say so in a card: `model_config: {max_seq_len: ...}`.",
        )
    padded = -(-max_seq_len // config.tp) * config.tp if config.sequence_parallel else max_seq_len
    if longest is not None and padded > longest:
        raise ConfigError(
            f"`max_seq_len` = {max_seq_len} becomes {padded}, a multiple of `tp`, with `sequence_parallel`: more "
            f"than the {longest} tokens that {start.card.name} is made for.",
            hint=f"Set `max_seq_len` to {longest // config.tp * config.tp}.",
        )
    is_clear = config.model == start.card.name or is_path(config.model)
    return msgspec.structs.replace(
        config,
        model=config.model if is_clear else str(Path(config.model).resolve()),
        name=name,
        output=config.output or str(Path("runs", name).resolve()),
        max_seq_len=max_seq_len,
    )


def _train(
    config: RecipeConfig, recipe: Recipe, start: Start, folder: RunFolder, gangs: Gangs, say: Say
) -> TrainingResult:
    """Train, and write the model down unless that was stopped."""
    ranks = Ranks(gangs)
    data = ranks.together(lambda: _data(config, recipe, start))
    digests = data.digests()
    if any(others != digests for others in gangs["world"].gathered(digests)):
        raise TrainingError("The data are not the same on all ranks.", hint="All of them have to see the same files.")
    for line in describe(config, start, data, gangs):
        say(line)
    ranks.first(lambda: folder.begin(config, digests, command=f"scaffold train {recipe.name}"))
    if newest := ranks.first(lambda: newest_checkpoint(folder.checkpoints)):
        say(f"Going on from {newest}.")
    model = start.make_model(config, gangs)
    pad_idx = start.tokenizer.vocab_info.pad_idx or 0
    result = make_trainer(config, recipe, model, data, folder, pad_idx=pad_idx, gangs=gangs).run()
    if not result.stopped:
        say(f"Trained for {result.step_nr} steps. {_losses(result)}")
        dtype = getattr(torch, config.save_dtype) if config.save_dtype else start.dtype
        files = start.tokenizer_path
        save_model(folder.model, model, start=start.prepared, tokenizer_path=files, dtype=dtype, gangs=gangs)
    return result


def _data(config: RecipeConfig, recipe: Recipe, start: Start) -> Split:
    """What to train on, and what to validate on if anything."""
    max_seq_len = config.max_seq_len or MAX_SEQ_LEN
    data = Split(recipe.read(start.tokenizer, config.data, max_seq_len))
    if config.valid_data is not None:
        data = Split(data.train, recipe.read(start.tokenizer, config.valid_data, max_seq_len))
    elif config.valid_share:
        data = data.train.hold_out(config.valid_share, config.seed)
    data.check(getattr(start.prepared.config, "vocab_size", None))
    return data


def _silent(_: str) -> None:
    """Of several ranks the first speaks."""


def _losses(result: TrainingResult) -> str:
    named = {"Loss": result.loss, "validation": result.valid_loss}
    return ", ".join(f"{name} {loss:.4f}" for name, loss in named.items() if loss is not None) + "."

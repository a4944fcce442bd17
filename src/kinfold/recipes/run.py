"""What all recipes do: card, data and config -> a trained model with a card of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import torch

from kinfold.assets import user_cards_folder
from kinfold.errors import ConfigError
from kinfold.recipes.card import check_name, write_outcome
from kinfold.recipes.config import RecipeConfig
from kinfold.recipes.data import Split
from kinfold.recipes.fit import Recipe, make_trainer
from kinfold.recipes.folder import RunFolder
from kinfold.recipes.outcome import save_model
from kinfold.recipes.report import describe
from kinfold.recipes.settings import checked, is_path
from kinfold.recipes.start import Start, started
from kinfold.training import TrainingResult, newest_checkpoint

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
    with started(config) as start:
        recipe.check_model(start.prepared.model)
        config = completed(config, recipe.name, start)
        folder, name = RunFolder(Path(str(config.output))), str(config.name)
        cards = Path(config.card_folder) if config.card_folder else card_folder or user_cards_folder()
        folder.check(config)
        check_name(name, cards, folder.model)
        training = None
        if folder.model.exists():
            say(f"{folder.path} came to its end before.")
        else:
            training = _train(config, recipe, start, folder, say)
            if training.stopped:
                say(f"Stopped after step {training.step_nr}; the same command goes on.")
                return Outcome(folder.path, training)
        card = write_outcome(cards, name=name, start=start.card, model=folder.model)
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
    is_clear = config.model == start.card.name or is_path(config.model)
    return msgspec.structs.replace(
        config,
        model=config.model if is_clear else str(Path(config.model).resolve()),
        name=name,
        output=config.output or str(Path("runs", name).resolve()),
        max_seq_len=max_seq_len,
    )


def _train(config: RecipeConfig, recipe: Recipe, start: Start, folder: RunFolder, say: Say) -> TrainingResult:
    """Train, and write the model down unless that was stopped."""
    device = _device(config.device)
    data = _data(config, recipe, start)
    for line in describe(config, start, data, device):
        say(line)
    folder.begin(config, data.digests(), command=f"scaffold train {recipe.name}")
    if newest := newest_checkpoint(folder.checkpoints):
        say(f"Going on from {newest}.")
    model = start.make_model(device, config.seed)
    result = make_trainer(config, recipe, model, data, folder, pad_idx=start.tokenizer.vocab_info.pad_idx or 0).run()
    if not result.stopped:
        say(f"Trained for {result.step_nr} steps. {_losses(result)}")
        dtype = getattr(torch, config.save_dtype) if config.save_dtype else start.dtype
        save_model(folder.model, model, start=start.prepared, tokenizer_path=start.tokenizer_path, dtype=dtype)
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


def _device(name: str | None) -> torch.device:
    device = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # torch's own, for a name or a device that there is not
        raise ConfigError(f"`device` = {device!r} cannot be used: {str(error).splitlines()[0]}") from error


def _losses(result: TrainingResult) -> str:
    named = {"Loss": result.loss, "validation": result.valid_loss}
    return ", ".join(f"{name} {loss:.4f}" for name, loss in named.items() if loss is not None) + "."

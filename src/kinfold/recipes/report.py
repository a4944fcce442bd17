"""What a run says of itself before it begins."""

from __future__ import annotations

from collections.abc import Iterator

from kinfold.parallel import Gangs
from kinfold.recipes.config import RecipeConfig
from kinfold.recipes.data import Data, Split
from kinfold.recipes.start import Start


def describe(config: RecipeConfig, start: Start, data: Split, gangs: Gangs) -> Iterator[str]:
    """The model, the data, the steps, and where all that is written goes; a line each."""
    card = start.card
    weights = "fresh weights" if start.is_fresh else f"weights of {start.prepared.checkpoint.path}"
    yield f"Model: {card.name} ({card.model_family} {card.model_arch}), {start.num_parameters:,} parameters, {weights}"
    yield f"Data: {config.data} ({_size(data.train)})"
    if data.valid is not None:
        yield f"Validation: {config.valid_data or 'held out of these'} ({_size(data.valid)})"
    yield from (f"Note: {note}" for note in data.notes)
    num_steps, sequences = config.num_steps(len(data.train.samples)), config.batch_size * config.gradient_accumulation
    sizes = {"tp": gangs["tp"].size, "fsdp": gangs["dp"].size, "pp": gangs["pp"].size}
    ranks = "".join(f", {name}={size}" for name, size in sizes.items() if size > 1)
    yield f"Training: {num_steps:,} steps of {sequences} sequences in {config.dtype} on {gangs.device}{ranks}"
    yield f"Folder: {config.output}, for recipe.yaml, metrics.jsonl and checkpoints"


def _size(data: Data) -> str:
    counts = {**data.what, "tokens": data.num_tokens, "sequences": len(data.samples)}
    return ", ".join(f"{name}: {count:,}" for name, count in counts.items() if count)

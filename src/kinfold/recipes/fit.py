"""Putting a trainer together from a config, a model and sequences."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from inspect import signature

import torch
from torch import nn

from kinfold.errors import ConfigError
from kinfold.parallel import Gangs
from kinfold.recipes.config import RecipeConfig
from kinfold.recipes.data import Data, Split, collate
from kinfold.recipes.folder import RunFolder
from kinfold.recipes.loss import summed_cross_entropy
from kinfold.recipes.optimizer import lr_schedule, make_optimizer
from kinfold.tokenizer import Tokenizer
from kinfold.training import (
    AbstractTrainUnit,
    BatchReader,
    JsonLinesRecorder,
    ProgressLine,
    Recorder,
    SequenceBatch,
    TensorBoardRecorder,
    Trainer,
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What one recipe has of its own.

    Attributes:
        name: What it is called.
        arguments: What the model is called with first: token ids, or those of a source before them.
        read: Called as `read(tokenizer, path, max_seq_len)`; gives the sequences of a file or folder.
        make_unit: Makes what is trained of a model.
        generate_options: What `scaffold generate` has to be told besides the name of the outcome and a text.
    """

    name: str
    arguments: tuple[str, ...]
    read: Callable[[Tokenizer, str, int], Data]
    make_unit: Callable[[nn.Module], AbstractTrainUnit[SequenceBatch]]
    generate_options: Callable[[Tokenizer], str] = lambda tokenizer: ""

    def check_model(self, model: nn.Module) -> None:
        """Raise a `ConfigError` if the model is not called as the recipe calls it."""
        takes = tuple(signature(model.forward).parameters)
        if takes[: len(self.arguments)] != self.arguments:
            raise ConfigError(
                f"The recipe {self.name} trains models that take ({', '.join(self.arguments)}), and a "
                f"{type(model).__name__} takes ({', '.join(takes)}).",
                hint="The recipe lm is for decoders, seq2seq for encoder-decoders.",
            )


def make_trainer(
    config: RecipeConfig,
    recipe: Recipe,
    model: nn.Module,
    data: Split,
    folder: RunFolder,
    *,
    pad_idx: int,
    gangs: Gangs,
) -> Trainer[SequenceBatch]:
    """What trains a model as a config says, and goes on from the newest checkpoint in the folder of the run."""
    unit = _unit(config, recipe, model, gangs)
    multiple = gangs["tp"].size if config.sequence_parallel else 1
    make_reader = partial(
        BatchReader,
        batch_size=config.batch_size,
        collate=partial(collate, pad_idx=pad_idx, multiple=multiple),
        gang=gangs["dp"],
    )
    valid = data.valid and make_reader(data.valid.samples, shuffle=False)
    num_steps = config.num_steps(len(data.train.samples))
    optimizer = make_optimizer(model, lr=config.lr, weight_decay=config.weight_decay)
    schedule = lr_schedule(
        optimizer,
        config.lr_schedule,
        warmup_steps=config.warmup_steps,
        num_steps=num_steps,
        final_ratio=config.final_lr_ratio,
    )
    recorders: list[Recorder] = [JsonLinesRecorder(folder.metrics)]
    if config.tensorboard:
        recorders.append(TensorBoardRecorder(folder.tensorboard))
    return Trainer(
        unit=unit,
        data_reader=make_reader(data.train.samples, seed=config.seed),
        optimizer=optimizer,
        lr_scheduler=schedule,
        max_num_steps=num_steps,
        gradient_accumulation=config.gradient_accumulation,
        max_gradient_norm=config.max_gradient_norm,
        dtype=getattr(torch, config.dtype),
        compile=config.compile,
        seed=config.seed,
        gangs=gangs,
        valid_unit=unit if valid else None,
        valid_data_reader=valid,
        validate_every_n_steps=config.validate_every_n_steps,
        checkpoint_dir=folder.checkpoints,
        checkpoint_every_n_steps=config.checkpoint_every_n_steps,
        keep_last_n_checkpoints=config.keep_last_n_checkpoints,
        publish_metrics_every_n_steps=config.publish_metrics_every_n_steps,
        recorders=recorders,
        progress=ProgressLine(sys.stderr),
    )


def _unit(config: RecipeConfig, recipe: Recipe, model: nn.Module, gangs: Gangs) -> AbstractTrainUnit[SequenceBatch]:
    if gangs["pp"].size == 1:
        return recipe.make_unit(model)
    from kinfold.training.pipelined import PipelinedUnit

    return PipelinedUnit(model, gangs, summed_cross_entropy, microbatches=config.microbatches)

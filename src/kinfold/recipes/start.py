"""What a run begins with: a card, its tokenizer, and its weights or fresh ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import torch
from torch import nn

from kinfold.assets import AssetCard
from kinfold.errors import CardError
from kinfold.loader import PreparedModel, StandardModelLoader, common_dtype, find_card, load_model
from kinfold.parallel import Gangs, fresh_model
from kinfold.recipes.config import RecipeConfig
from kinfold.recipes.layout import sharder_of, spread_layers
from kinfold.recipes.outcome import fresh_start
from kinfold.tokenizer import Tokenizer, load_tokenizer

SAVED = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""What weights are saved as; those that are more narrow in the checkpoint are saved as the first."""


@dataclass(frozen=True, slots=True)
class Start:
    """What a run begins with.

    Attributes:
        prepared: The card with its arch, the family's config, and the checkpoint, open.
        tokenizer: The tokenizer.
        tokenizer_path: Where it lies.
        dtype: The dtype of the weights in the checkpoint.
        is_fresh: Whether the weights are not the checkpoint's.
    """

    prepared: PreparedModel
    tokenizer: Tokenizer
    tokenizer_path: Path
    dtype: torch.dtype
    is_fresh: bool

    @property
    def card(self) -> AssetCard:
        """The card it begins with."""
        return self.prepared.card

    @property
    def num_parameters(self) -> int:
        """The parameters of the model; those that are tied count once."""
        return sum(parameter.numel() for parameter in self.prepared.model.parameters())

    def check_layout(self, config: RecipeConfig, gangs: Gangs) -> None:
        """Raise a `ParallelError` if the model cannot be spread so; a copy of it without storage is."""
        if gangs["world"].size > 1:
            self._spread(deepcopy(self.prepared.model), config, gangs)

    def make_model(self, config: RecipeConfig, gangs: Gangs) -> nn.Module:
        """The model, float32, ready to be trained, spread over the ranks; each reads its own parts alone."""
        loader = load_model.get(self.card.model_family)
        if self.is_fresh:
            spread = partial(self._spread, config=config, gangs=gangs)
            model = fresh_model(loader.factory, self.prepared.config, spread, seed=config.seed, device=gangs.device)
            return model.train()
        loader = StandardModelLoader(
            config_loader=loader.config_loader,
            factory=loader.factory,
            checkpoint_converter=loader.checkpoint_converter,
            sharder=sharder_of(loader, config),
        )
        spread = partial(spread_layers, config=config, gangs=gangs)
        return loader(self.card, device=gangs.device, dtype=torch.float32, gangs=gangs, before_loading=spread).train()

    def _spread(self, model: nn.Module, config: RecipeConfig, gangs: Gangs) -> None:
        sharder_of(load_model.get(self.card.model_family), config)(model, self.prepared.config, gangs)
        spread_layers(model, config, gangs)


@contextmanager
def started(config: RecipeConfig) -> Iterator[Start]:
    """What a config says to begin with; its checkpoint is open within.

    Raises:
        CardError: There is no such card, or it lacks a checkpoint or a tokenizer.
        CertificateError: The checkpoint and the model do not explain each other in full.
        TokenizerError: The tokenizer cannot be read.
    """
    card = find_card(config.model, family=config.family)
    tokenizer_path = card.tokenizer
    if tokenizer_path is None:
        raise CardError(
            f"{card.source} names neither a checkpoint nor a tokenizer.", hint="Add `tokenizer: file:PATH`."
        )
    tokenizer = load_tokenizer(tokenizer_path)
    loader = load_model.get(card.model_family)
    prepared = _fresh(card, loader, tokenizer) if config.from_scratch else _prepared(card, loader)
    with prepared.checkpoint:
        dtype = torch.float32 if config.from_scratch else common_dtype(prepared.checkpoint.manifest)
        yield Start(prepared, tokenizer, tokenizer_path, dtype if dtype in SAVED else SAVED[0], config.from_scratch)


def _prepared(card: AssetCard, loader: StandardModelLoader) -> PreparedModel:
    if card.checkpoint_place is None:
        raise CardError(
            f"{card.source} names no checkpoint.", hint="Train it from scratch (`from_scratch`), or name one."
        )
    return loader.prepare(card if card.is_bare else _with_arch(card, loader))


def _fresh(card: AssetCard, loader: StandardModelLoader, tokenizer: Tokenizer) -> PreparedModel:
    card = _with_arch(card, loader)
    config = loader.config_loader(card)
    return fresh_start(card, config, loader.factory(config, device="meta"), tokenizer)


def _with_arch(card: AssetCard, loader: StandardModelLoader) -> AssetCard:
    """The card with its arch said, so that its outcome does not change with the family's default."""
    return msgspec.structs.replace(card, model_arch=card.model_arch or loader.config_loader.archs.names()[0])

"""Loading a checkpoint into a model: config, certificate, then tensor by tensor.

    card or path -> config -> model on the meta device -> certificate -> spread over ranks -> weights

Nothing is allocated before the certificate holds and the model is spread, and no weight is left at random after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, get_type_hints

import msgspec
import torch
from torch import nn

from kinfold.assets import AssetCard, FileUri, card_files, is_card_path, read_card, retrieve_asset_card
from kinfold.checkpoint import Checkpoint, Manifest, open_checkpoint
from kinfold.checkpoint.manifest import state_dict_manifest
from kinfold.converter import CheckpointConverter, Conversion
from kinfold.errors import CardError, CheckpointError, ParallelError, RegistryError, nearest
from kinfold.filling import Progress, fill
from kinfold.memory import collector_paused
from kinfold.parallel.gangs import Gang, Gangs
from kinfold.parallel.together import together, world_of
from kinfold.registry import ConfigRegistry, Registrations, families

T = TypeVar("T")

BeforeLoading = Callable[[nn.Module], object]
"""Called with a model on the meta device, which it may change: shard it further, or leave a part of it."""


class CreateModel(Protocol):
    """`create_<family>_model`."""

    def __call__(
        self, config: Any, /, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> nn.Module: ...


class StandardModelConfigLoader(Generic[T]):
    """Gives the config that a card describes: that of its arch, with the card's own values over it."""

    def __init__(self, family: str, config_class: type[T], archs: ConfigRegistry[T]) -> None:
        self.family = family
        self.config_class = config_class
        self.archs = archs

    def __call__(self, card: AssetCard) -> T:
        """The config of `card`.

        Raises:
            CardError: The card is of another family, or has values that the config cannot take.
            RegistryError: There is no such arch; what is wrong with the values is listed too.
        """
        if card.model_family != self.family:
            raise CardError(f"{card.source} is of the family {card.model_family!r}, not {self.family!r}.")
        values, faults = self._values(card)
        arch, known = card.model_arch, self.archs.names()
        if arch is not None and arch not in known:
            raise RegistryError(
                f"There is no arch {arch!r}, which {card.file_of('model_arch')} names. {nearest(arch, known) or ''}",
                faults=faults,
            )
        if faults:
            raise CardError(f"{card.source} is not as it should be:", faults=faults)
        config = self.archs.get(arch)
        for name, value in values.items():
            setattr(config, name, value)
        return config

    def _values(self, card: AssetCard) -> tuple[dict[str, Any], list[str]]:
        """The values of a card as the fields of the config are typed, and what is wrong with the others."""
        types = get_type_hints(self.config_class)
        values, faults = {}, []
        for name, value in card.model_config.items():
            key = f"model_config.{name}"
            inherited = f" (in {file})" if (file := card.file_of(key)) != card.source else ""
            if name not in types:
                right = nearest(name, types)
                faults.append(f"`{key}`{inherited} is no field of {self.config_class.__name__}. {right}")
                continue
            try:
                values[name] = msgspec.convert(value, types[name])
            except msgspec.ValidationError as error:
                faults.append(f"`{key}`{inherited}: {error}")
        return values, faults


@dataclass(frozen=True, slots=True)
class PreparedModel:
    """A model on the meta device, and the certified conversion that will fill it."""

    card: AssetCard
    config: Any
    model: nn.Module
    checkpoint: Checkpoint
    conversion: Conversion


class StandardModelLoader:
    """Loads the models of one family.

    Args:
        config_loader: Gives the config of a card.
        factory: Creates a model from a config.
        checkpoint_converter: The key maps from foreign layouts to the family's own.
        sharder: Called as `sharder(model, config, gangs)` on the model on the meta device where gangs are given.
    """

    def __init__(
        self,
        *,
        config_loader: StandardModelConfigLoader[Any],
        factory: CreateModel,
        checkpoint_converter: CheckpointConverter,
        sharder: Callable[[nn.Module, Any, Any], None] | None = None,
    ) -> None:
        self.config_loader = config_loader
        self.factory = factory
        self.checkpoint_converter = checkpoint_converter
        self.sharder = sharder

    def __call__(
        self,
        card: AssetCard | str | Path,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        mmap: bool = True,
        gangs: Mapping[str, Gang] | None = None,
        before_loading: BeforeLoading | None = None,
        progress: Progress | None = None,
    ) -> nn.Module:
        """Load the model of a card, or of a checkpoint of this family.

        Args:
            card: A card, the name of one, or the path of its file or of a checkpoint.
            device: Where the weights shall lie; if None, where the gangs compute, else torch's default device.
            dtype: The dtype of all weights; if None, the narrowest that holds every weight exactly.
            mmap: Leave weights that need no change mapped to the file, privately: nothing is copied
                before it is written to, and the file is never written. False copies them.
            gangs: The ranks that load it together, as `setup_gangs` gives them: the family's sharder spreads it over
                them, and each reads its own parts alone.
            before_loading: Called with the model on the meta device, in its dtype and spread by the sharder, for what
                is to be done before there are weights: `lambda model: shard_data_parallel(model, gangs["dp"])`, or
                leaving a stage of it. What it has removed is not loaded.
            progress: Called after each weight.

        Returns:
            The model, in evaluation mode.

        Raises:
            CertificateError: The checkpoint and the model do not explain each other in full.
            ParallelError: The model cannot be spread over the ranks, or another rank could not load it.
        """
        with together(gangs, f"Loading {card.name if isinstance(card, AssetCard) else card}"), collector_paused():
            if not isinstance(card, AssetCard):
                card = find_card(card, family=self.config_loader.family)
            default = gangs.device if isinstance(gangs, Gangs) else torch.get_default_device()
            place = default if device is None else torch.device(device)
            with (prepared := self.prepare(card)).checkpoint as checkpoint:
                dtype = dtype or common_dtype(_loaded(prepared))
                if gangs is None and before_loading is None:
                    plan = prepared.conversion.certificate.plan
                    weights = plan.load(lambda name: checkpoint.tensor(name, mmap=mmap))
                    fill(prepared.model, weights, device=place, dtype=dtype, progress=progress)
                else:
                    self._spread(prepared, dtype, gangs, before_loading)
                    _fill_own(prepared, gangs, device=place, dtype=dtype, mmap=mmap, progress=progress)
        return prepared.model.eval()

    def _spread(
        self,
        prepared: PreparedModel,
        dtype: torch.dtype,
        gangs: Mapping[str, Gang] | None,
        before_loading: BeforeLoading | None,
    ) -> None:
        """Make the model on the meta device what this rank has of it."""
        prepared.model.to(dtype)
        if gangs is not None and self.sharder is not None:
            self.sharder(prepared.model, prepared.config, gangs)
        elif alike := [f"{n}={gangs[n].size}" for n in ("tp", "ep") if gangs and n in gangs and gangs[n].size > 1]:
            raise ParallelError(
                f"The family {self.config_loader.family!r} has no sharder for {' and '.join(alike)} ranks.",
                hint="Give its loader one: `StandardModelLoader(..., sharder=...)`.",
            )
        if before_loading is not None:
            before_loading(prepared.model)

    def prepare(self, card: AssetCard) -> PreparedModel:
        """Build the model on the meta device and certify its checkpoint, from headers alone."""
        path = card.checkpoint
        if path is None:
            raise CardError(f"{card.source} names no checkpoint.", hint="Add a line such as `checkpoint: file:PATH`.")
        checkpoint = open_checkpoint(path)
        if card.model_arch is None and card.is_bare:
            card = msgspec.structs.replace(card, model_arch=self._fitting_arch(checkpoint))
        config = self.config_loader(card)
        model = self.factory(config, device="meta")
        conversion = self.checkpoint_converter.choose(
            checkpoint.manifest, model_manifest(model), config, what=str(path)
        )
        return PreparedModel(card, config, model, checkpoint, conversion)

    def _fitting_arch(self, checkpoint: Checkpoint) -> str:
        """The arch whose sizes a bare checkpoint has: the one whose certificate holds."""
        nearest_arch, fewest = "", float("inf")
        for arch in self.config_loader.archs.names():
            config = self.config_loader.archs.get(arch)
            target = model_manifest(self.factory(config, device="meta"))
            best = self.checkpoint_converter.conversions(checkpoint.manifest, target, config)[0]
            if best.certificate.holds:
                return arch
            if len(best.certificate.faults) < fewest:
                nearest_arch, fewest = arch, len(best.certificate.faults)
        return nearest_arch  # its certificate will say what does not fit


class ModelLoaders:
    """`load_model`: the loaders of all families, called through the one a card names."""

    def __init__(self) -> None:
        self.registrations = Registrations[StandardModelLoader]("loader")

    def register(self, family: str, loader: StandardModelLoader) -> None:
        """Register what loads the models of `family`."""
        self.registrations.add(family, loader)

    def get(self, family: str) -> StandardModelLoader:
        """The loader of `family`."""
        return self.registrations.get(family)

    def __call__(
        self,
        card: AssetCard | str | Path,
        *,
        family: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        mmap: bool = True,
        gangs: Mapping[str, Gang] | None = None,
        before_loading: BeforeLoading | None = None,
        progress: Progress | None = None,
    ) -> nn.Module:
        """Load a model.

        Args:
            card: A card, the name of one, or the path of its file or of a checkpoint that a card names.
            family: The family of a checkpoint that no card names.

        The other arguments, the result and the errors are those of `StandardModelLoader`.
        """
        if not isinstance(card, AssetCard):
            card = find_card(card, family=family)
        elif family is None:
            check_family(card)
        loader = self.get(family or card.model_family)
        return loader(
            card,
            device=device,
            dtype=dtype,
            mmap=mmap,
            gangs=gangs,
            before_loading=before_loading,
            progress=progress,
        )


load_model = ModelLoaders()


def find_card(name_or_path: str | Path, *, family: str | None = None) -> AssetCard:
    """The card of that name or in that file, else the card of the checkpoint at that path.

    For a checkpoint that no card names, a bare card is made if the `family` is given.

    Raises:
        CardError: There is none, or it is malformed, or of a family that is not known. No family is imported.
    """
    known = [] if is_card_path(name_or_path) else list(card_files())
    if is_card_path(name_or_path) or (isinstance(name_or_path, str) and name_or_path in {path.stem for path in known}):
        card = retrieve_asset_card(name_or_path)
        if family is None:
            check_family(card)
        return card
    path = Path(name_or_path).expanduser().resolve()
    if not path.exists():
        raise CardError(
            f"{str(name_or_path)!r} is neither the name of a card nor a path.",
            hint=nearest(str(name_or_path), [card.stem for card in known]),
        )
    if family is not None:
        return AssetCard(path.name, family, source=path, checkpoint=path, tokenizer=path)
    cards = [card for card in map(read_card, known) if (place := card.checkpoint_place) and place.uri == FileUri(path)]
    if len(cards) != 1:
        names = f"{len(cards)} cards name it: {', '.join(card.name for card in cards)}" if cards else "no card names it"
        raise CardError(f"Which family {path} is of is not known: {names}.", hint="Say which: `family=...`.")
    check_family(cards[0])
    return cards[0]


def check_family(card: AssetCard) -> None:
    """Refuse a card of a family that is not known; no family is imported.

    Raises:
        CardError: Names the nearest families.
    """
    if card.model_family in families.modules:
        return
    try:
        load_model.get(card.model_family)  # one that was registered by hand, and is in no table
    except RegistryError as error:
        raise CardError(
            f"{card.file_of('model_family')}: the `model_family` {card.model_family!r} is not known.", hint=error.hint
        ) from error


def model_manifest(model: nn.Module) -> Manifest:
    """The names, shapes and dtypes of everything in a model's state dict, in its order."""
    return state_dict_manifest(model.state_dict(keep_vars=True))


def common_dtype(manifest: Manifest) -> torch.dtype:
    """The narrowest floating dtype that holds every floating tensor of a checkpoint exactly."""
    dtypes = {getattr(torch, info.dtype) for info in manifest.values()}
    floating = sorted((dtype for dtype in dtypes if dtype.is_floating_point), key=str)
    if not floating:
        raise CheckpointError("The checkpoint holds no floating-point tensor.")
    try:
        return reduce(torch.promote_types, floating)
    except RuntimeError as error:  # torch has no dtype that holds two kinds of float8
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in floating)
        raise CheckpointError(f"No dtype holds all of {names}.", hint="Say which: `dtype=...`.") from error


def _loaded(prepared: PreparedModel) -> Manifest:
    """The part of a checkpoint's manifest that the model is filled from."""
    steps = prepared.conversion.certificate.plan.steps
    return {name: prepared.checkpoint.manifest[name] for step in steps for name in step.sources}


def _fill_own(
    prepared: PreparedModel,
    gangs: Mapping[str, Gang] | None,
    *,
    device: torch.device,
    dtype: torch.dtype,
    mmap: bool,
    progress: Progress | None,
) -> None:
    """Fill what this rank has of the model; the first of the ranks checks the copies for all."""
    from kinfold.parallel.loading import own_weights
    from kinfold.parallel.styles import reduce_gradients

    plan, world = prepared.conversion.certificate.plan, world_of(gangs)
    if world is None or world.rank == 0:
        plan.check_copies(prepared.checkpoint.tensor)
    weights = own_weights(prepared.model, plan, prepared.checkpoint, device=device, dtype=dtype, mmap=mmap)
    fill(prepared.model, weights, device=device, dtype=dtype, progress=progress)
    reduce_gradients(prepared.model)  # their hooks are on the parameters, which are others now

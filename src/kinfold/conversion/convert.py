"""Converting a checkpoint from one layout to another, on disk, one tensor at a time.

source layout -> native -> other layout, each tensor by itself -> shards -> the destination, in one step

Several ranks prepare the same, each by itself from headers; they share the writing only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import msgspec

from kinfold import __version__
from kinfold.assets import AssetCard
from kinfold.checkpoint import open_checkpoint
from kinfold.checkpoint.crew import Crew, crew_of
from kinfold.checkpoint.names import DCP_METADATA, PICKLE_SUFFIXES
from kinfold.checkpoint.shards import Shard, parse_size, plan_shards
from kinfold.checkpoint.write import write_safetensors, write_synced
from kinfold.conversion.companions import CONFIG, companions, config_file
from kinfold.conversion.hf_config import stated_otherwise
from kinfold.conversion.route import Route
from kinfold.conversion.unfinished import differences, made_together, was_made
from kinfold.converter import NATIVE, CheckpointConverter
from kinfold.errors import CheckpointError, KeyMapError, nearest
from kinfold.loader import PreparedModel, find_card, load_model, model_manifest

if TYPE_CHECKING:
    import torch

    from kinfold.parallel import Gangs

Format = Literal["safetensors", "dcp"]
Progress = Callable[[int, int], None]
"""Called with the bytes written so far and all that are to be written."""

DTYPES = ("float32", "bfloat16", "float16", "float64")
WEIGHT_SUFFIXES = (".safetensors", ".gguf", ".distcp", *PICKLE_SUFFIXES)
GGUF, GGUF_NAMES = "gguf", "gguf-names"
SHARD_SIZES: Mapping[Format, str] = {"safetensors": "5GB", "dcp": "100MB"}
"""How large a file may be if it is not said; torch keeps a whole file of DCP in memory while it writes it."""


@dataclass(frozen=True, slots=True)
class Converted:
    """What a conversion has written.

    Attributes:
        path: The folder.
        family: The family of the model.
        arch: Its arch.
        source_layout: The layout that the source was in.
        layout: The layout that the destination is in.
        files: The names of its files.
        tensors: How many tensors there are.
        nbytes: How many bytes they take.
    """

    path: Path
    family: str
    arch: str
    source_layout: str
    layout: str
    files: tuple[str, ...]
    tensors: int
    nbytes: int


def convert_checkpoint(
    source: AssetCard | str | Path,
    destination: str | Path,
    *,
    family: str | None = None,
    arch: str | None = None,
    to: str = NATIVE,
    dtype: torch.dtype | str | None = None,
    max_shard_size: int | str | None = None,
    format: Format = "safetensors",
    config: bool = True,
    restart: bool = False,
    gangs: Gangs | None = None,
    progress: Progress | None = None,
) -> Converted:
    """Write a checkpoint in another layout.

    The destination is there complete or not at all. After an interruption the same call goes on with what is
    complete, by as many ranks as there are then. One tensor, and what it is made of, is in memory at a time; one that
    stays as it is, is copied by the kernel.

    Args:
        source: A card, the name of one, or the path of a checkpoint.
        destination: The folder to make.
        family: The family of a checkpoint that no card names.
        arch: The arch of such a checkpoint; if None, one whose certificate holds.
        to: The layout to write: one of the family's key maps, "native", or "gguf-names" for that of GGUF.
        dtype: What floating tensors are cast to; None leaves them. Quantised tensors of GGUF are float32.
        max_shard_size: How many bytes of tensors a file may have; if None, "5GB", and "100MB" for "dcp", which holds as
            much in memory.
        format: "safetensors", or "dcp" for torch.distributed.checkpoint.
        config: Whether to write config.json.
        restart: Throw away what an unfinished conversion of another request to the same destination has left.
        gangs: The gangs of the ranks that do it together (`setup_gangs`): each calls this with the same arguments, and
            all see the same files.
        progress: Called as bytes are written; on rank 0 alone, with what all have written.

    Raises:
        CertificateError: A key map does not explain the checkpoint, or the model, in full.
        KeyMapError: The family has no such layout.
        ConfigError: A config.json is to be made that is not known.
        CheckpointError: The destination exists, cannot be written, or another conversion to it is unfinished.
        RankError: There are several ranks, and one has failed, by one of these errors or otherwise; names it.
    """
    destination = _destination(destination)
    cast = _dtype_name(dtype)
    _check_format(format, gangs)
    max_file_size = parse_size(SHARD_SIZES[format] if max_shard_size is None else max_shard_size)
    with crew_of(gangs) as crew:
        prepared, converter = _prepared(source, family, arch)
        with prepared.checkpoint as checkpoint:
            route = _route(prepared, converter, to, cast)
            if crew.rank == 0:
                prepared.conversion.certificate.plan.check_copies(checkpoint.tensor)
            shards = plan_shards(route.manifest, max_file_size)
            others = companions(checkpoint)
            if config:
                others[CONFIG] = config_file(prepared, route.manifest, to=to, cast=cast)
            request = _request(prepared, route, to, format, shards, others)
            if asked_otherwise := differences(crew.told("request", lambda: request), request):
                raise CheckpointError("It is asked for something else than rank 0:", faults=asked_otherwise)
            nbytes = sum(info.nbytes for info in route.manifest.values())
            crew.expect(nbytes, progress)
            if not crew.told("made", lambda: was_made(destination, request)):
                with made_together(destination, request, crew, restart=restart) as folder:
                    _write(folder, shards, max_file_size, route, format, crew)
                    if crew.rank == 0:
                        for name, data in others.items():
                            write_synced(folder / name, data)
                        if _identity(checkpoint.path) != request["files"]:
                            raise CheckpointError(f"{checkpoint.path} has changed while it was read.")
        return Converted(
            path=destination,
            family=prepared.card.model_family,
            arch=prepared.card.model_arch or "",
            source_layout=prepared.conversion.layout,
            layout=to,
            files=tuple(sorted(path.name for path in destination.iterdir())),
            tensors=len(route.manifest),
            nbytes=nbytes,
        )


def _destination(path: str | Path) -> Path:
    path = Path(path).expanduser()
    path = path.parent.resolve() / path.name
    if path.suffix in WEIGHT_SUFFIXES:
        raise CheckpointError(
            f"{path} is to be a folder, and is called like a file.", hint=f"{path.with_suffix('')} would do."
        )
    return path


def _check_format(format: str, gangs: Gangs | None) -> None:
    if format not in get_args(Format):
        raise CheckpointError(f"The format {format!r} is not known.", hint=nearest(format, get_args(Format)))
    if format == "dcp" and gangs is not None and gangs["world"].size > 1:
        raise CheckpointError(
            f"DCP is written by one process, not by {gangs['world'].size}.",
            hint="Start it without torchrun, or have safetensors written.",
        )


def _dtype_name(dtype: torch.dtype | str | None) -> str | None:
    if dtype is None:
        return None
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise CheckpointError(f"Tensors are not cast to {name!r}.", hint=nearest(name, DTYPES))
    return name


def _prepared(
    source: AssetCard | str | Path, family: str | None, arch: str | None
) -> tuple[PreparedModel, CheckpointConverter]:
    """The certified conversion of a source, and the key maps of its family.

    Where no card says so, what a family's config has besides shapes is as the checkpoint's own config says.
    """
    card = source if isinstance(source, AssetCard) else find_card(source, family=family)
    loader = load_model.get(family or card.model_family)
    if arch is not None:
        card = msgspec.structs.replace(card, model_arch=arch)
    if not card.is_bare:
        default = loader.config_loader.archs.names()[0]
        card = msgspec.structs.replace(card, model_arch=card.model_arch or default)
        return loader.prepare(card), loader.checkpoint_converter
    with open_checkpoint(card.source) as checkpoint:
        foreign = checkpoint.config
    if foreign.get("model_family") == card.model_family and arch is None:  # written here
        card = msgspec.structs.replace(
            card, model_arch=foreign.get("model_arch"), model_config=foreign.get("model_config", {})
        )
        return loader.prepare(card), loader.checkpoint_converter
    prepared = loader.prepare(card)
    if otherwise := stated_otherwise(prepared.config, foreign):
        prepared.checkpoint.close()
        prepared = loader.prepare(msgspec.structs.replace(prepared.card, model_config=otherwise))
    return prepared, loader.checkpoint_converter


def _route(prepared: PreparedModel, converter: CheckpointConverter, to: str, dtype: str | None) -> Route:
    """How each tensor of the other layout comes about."""
    layout = _layout(to, converter)
    checkpoint, conversion = prepared.checkpoint, prepared.conversion
    load = conversion.certificate.plan
    if layout == conversion.layout:
        return Route(checkpoint, load, load, load.exported(checkpoint.manifest), dtype=dtype)
    came_out = conversion.key_map.target_manifest(checkpoint.manifest)
    native = {name: came_out[name] for name in model_manifest(prepared.model)}
    if layout == NATIVE:
        return Route(checkpoint, load, None, native, dtype=dtype)
    export, exported = converter.exporting(native, prepared.config, layout=layout)
    return Route(checkpoint, load, export, exported, dtype=dtype)


def _layout(to: str, converter: CheckpointConverter) -> str:
    """The layout that is called `to`.

    Raises:
        KeyMapError: There is none; names those that there are.
    """
    known = [NATIVE, *(GGUF_NAMES if layout == GGUF else layout for layout in converter.key_maps)]
    if to == GGUF:
        raise KeyMapError(
            "GGUF files are not written.",
            hint=f"{GGUF_NAMES!r} writes safetensors with the names and values of GGUF."
            if GGUF_NAMES in known
            else None,
        )
    if to not in known:
        raise KeyMapError(f"The family has no layout {to!r}.", hint=f"Known: {', '.join(known)}.")
    return GGUF if to == GGUF_NAMES else to


def _request(
    prepared: PreparedModel,
    route: Route,
    to: str,
    format: Format,
    shards: list[Shard],
    others: Mapping[str, bytes],
) -> dict[str, Any]:
    """All that decides what comes out."""
    return {
        "kinfold": __version__,
        "source": str(prepared.checkpoint.path.absolute()),
        "files": _identity(prepared.checkpoint.path),
        "family": prepared.card.model_family,
        "layouts": [prepared.conversion.layout, to],
        "format": format,
        "shards": {shard.file: _digest(shard.header) for shard in shards},
        "others": {name: _digest(data) for name, data in others.items()},
        "steps": route.fingerprint(),
    }


def _identity(path: Path) -> list[list[Any]]:
    """Name, size and time of change of the files of a checkpoint that hold tensors."""
    found = sorted(path.iterdir()) if path.is_dir() else [path]
    files = [file for file in found if file.suffix in WEIGHT_SUFFIXES or file.name == DCP_METADATA]
    return [[file.name, (status := file.stat()).st_size, status.st_mtime_ns] for file in files or [path]]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write(folder: Path, shards: list[Shard], max_file_size: int, route: Route, format: Format, crew: Crew) -> None:
    if format == "safetensors":
        write_safetensors(
            folder, shards, route, wrote=crew.wrote, crew=crew, origins=route.origins, pieces=route.pieces
        )
        return
    from kinfold.checkpoint.dcp import write_dcp

    write_dcp(folder, route, max_file_size=max_file_size, wrote=crew.wrote)
